"""Classic control: small worlds whose equations run over arrays, on any device."""

from .acrobot import Acrobot
from .base import HostWorlds, Task, TorchWorlds
from .cartpole import CartPole, CartPoleSwingUp
from .linear import LQR, DoubleIntegrator
from .mountain_car import MountainCar, MountainCarContinuous
from .peaks import FourPeaks
from .pendulum import Pendulum

__all__ = [
    "LQR",
    "Acrobot",
    "CartPole",
    "CartPoleSwingUp",
    "DoubleIntegrator",
    "FourPeaks",
    "HostWorlds",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "Task",
    "TorchWorlds",
]
