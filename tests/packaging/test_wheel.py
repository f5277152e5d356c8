"""The built wheel holds the whole tree and nothing else, and works where there is no checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
WINGS = ("agents", "envs", "theory")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packed, without ``build/`` (whose leavings setuptools would pack too) and without caches."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("polopt", *WINGS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a second copy: setuptools leaves build/ and an egg-info behind.
    copy = shutil.copytree(source, tmp_path_factory.mktemp("build") / "source")
    out = tmp_path_factory.mktemp("dist")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, copy, cwd=out)
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel alone."""
    site = tmp_path_factory.mktemp("site")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=site)
    return site


def installed_as(path: PurePosixPath) -> PurePosixPath:
    return path if path.parts[0] == "polopt" else PurePosixPath("polopt", path)


def tree(source: Path) -> list[PurePosixPath]:
    """The files of the four packages, as the wheel is to name them."""
    files = [path for name in ("polopt", *WINGS) for path in (source / name).rglob("*") if path.is_file()]
    return sorted(installed_as(PurePosixPath(path.relative_to(source).as_posix())) for path in files)


def test_packages_in_pyproject_are_the_folders_of_the_tree(source: Path):
    listed = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = sorted({".".join(path.parent.parts) for path in tree(source) if path.suffix == ".py"})
    assert sorted(listed) == folders


def test_every_folder_of_modules_is_a_package(source: Path):
    files = tree(source)
    assert [str(path) for path in files if path.suffix == ".py" and path.with_name("__init__.py") not in files] == []


def test_the_wheel_holds_the_files_of_the_tree(source: Path, wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = map(PurePosixPath, archive.namelist())
    packed = sorted(path for path in names if not path.parts[0].endswith(".dist-info"))
    assert packed == tree(source)
    assert PurePosixPath("polopt/py.typed") in packed


IMPORT_ALL = """
import importlib, json, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
origins = {name: importlib.import_module(name).__file__ for name in sys.argv[3:]}
bare = [name for name in ("agents", "envs", "theory") if name in sys.modules]
print("\\n" + json.dumps([origins, bare]))
"""


def test_every_module_imports_from_the_wheel_alone(source: Path, site: Path, tmp_path: Path):
    # -I keeps the current folder and PYTHONPATH out; -S keeps .pth files out, and with them the finder of an editable
    # install, which would quietly supply what the wheel lacks.
    names = [
        ".".join(path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts)
        for path in tree(source)
        if path.suffix == ".py" and path.name != "__main__.py"
    ]
    packages = sysconfig.get_path("purelib")
    out = run(sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(site), packages, *names, cwd=tmp_path)
    origins, bare = json.loads(out.splitlines()[-1])
    assert {name: origin for name, origin in origins.items() if not Path(origin).is_relative_to(site)} == {}
    assert bare == []


ENTRY_POINTS = """
import importlib.metadata, sys
sys.path[:0] = [sys.argv[1]]
sys.path.append(sys.argv[2])
for entry_point in importlib.metadata.distribution("polopt").entry_points:
    assert callable(entry_point.load()), entry_point
    print(entry_point.group, entry_point.name)
"""


def test_every_entry_point_of_the_wheel_loads(site: Path, tmp_path: Path):
    packages = sysconfig.get_path("purelib")
    out = run(sys.executable, "-I", "-S", "-c", ENTRY_POINTS, str(site), packages, cwd=tmp_path)
    assert "console_scripts polopt" in out.splitlines()
