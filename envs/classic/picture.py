"""A small canvas for pictures of worlds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["DARK", "GREY", "RED", "WOOD", "Canvas"]

DARK, GREY, RED, WOOD = (40, 44, 52), (170, 174, 182), (200, 70, 60), (202, 152, 101)
Color = tuple[int, int, int]
_SMOOTH = 2  # drawn larger, then shrunk: Pillow draws without antialiasing


class Canvas:
    """Draws in world units [m], the origin in the middle, y upwards.

    Args:
        width: of the part of the world that is seen [m].
        size: of the picture [pixels].
    """

    def __init__(self, width: float, size: tuple[int, int] = (400, 300)) -> None:
        self._size = size
        self._scale = _SMOOTH * size[0] / width
        self._image = Image.new("RGB", (_SMOOTH * size[0], _SMOOTH * size[1]), (250, 250, 250))
        self._pen = ImageDraw.Draw(self._image)

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self._image.width / 2 + self._scale * x, self._image.height / 2 - self._scale * y

    def line(self, points: Sequence[tuple[float, float]], color: Color = DARK, thickness: float = 0.02) -> None:
        """A line through points; ``thickness`` [m]."""
        width = max(1, round(thickness * self._scale))
        self._pen.line([self._at(*p) for p in points], fill=color, width=width, joint="curve")

    def disc(self, x: float, y: float, radius: float, color: Color = DARK) -> None:
        """A filled circle; ``radius`` [m]."""
        (a, b), r = self._at(x, y), radius * self._scale
        self._pen.ellipse((a - r, b - r, a + r, b + r), fill=color)

    def box(self, x: float, y: float, width: float, height: float, color: Color = DARK) -> None:
        """A filled rectangle around ``(x, y)``."""
        left, top = self._at(x - width / 2, y + height / 2)
        right, bottom = self._at(x + width / 2, y - height / 2)
        self._pen.rectangle((left, top, right, bottom), fill=color)

    def rod(self, x: float, y: float, angle: float, length: float, color: Color = WOOD) -> tuple[float, float]:
        """A rod from ``(x, y)``, ``angle`` [rad] from upright to the right; returns its far end."""
        end = x + length * math.sin(angle), y + length * math.cos(angle)
        self.line([(x, y), end], color, 0.08 * length)
        self.disc(x, y, 0.05 * length, DARK)
        return end

    def picture(self) -> np.ndarray:
        """``[height, width, 3]`` uint8."""
        return np.asarray(self._image.resize(self._size, Image.Resampling.LANCZOS)).copy()
