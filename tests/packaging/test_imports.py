"""What may import what, read from the source; and what a bare ``import polopt`` loads, seen from a fresh process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WINGS = ("agents", "envs", "theory")
CORE = {path.stem for path in (ROOT / "polopt").iterdir()}
OURS = ("polopt", *WINGS, "benchmarks")
"""The folders whose code is ours to run; tests may write a hostile pickle to see it refused."""
EVERYWHERE = (*OURS, "tests", "docs")

Found = Iterator[tuple[int, str]]
"""Line numbers, and what is wrong there."""


def imported(node: ast.AST) -> list[str]:
    """The absolute module names that a statement or an ``import_module`` call names; ``from a import b`` is ``a.b``."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            return [name]
    return []


def at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import_time(node)


def core_violations(tree: ast.AST, depth: int = 1) -> Found:
    """The core reaches the wings by name only, inside functions.

    Args:
        depth: 1 for a file in ``polopt/``, 2 for one in a folder below it, and so on.
    """
    for node in at_import_time(tree):
        names = imported(node)
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [f"polopt.{node.module}" if node.module else f"polopt.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("polopt.") and name.split(".")[1] in WINGS:
                yield node.lineno, f"the core imports the wing {name}"


def wing_violations(tree: ast.AST, depth: int) -> Found:
    """A wing imports the core absolutely, its own files relatively, and no other wing.

    Args:
        depth: 1 for a file in the wing's own folder, 2 for one in a folder below it, and so on.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level > depth:
            yield node.lineno, f"a relative import of level {node.level} leaves the wing: import the core absolutely"
        for name in imported(node):
            top, _, rest = name.partition(".")
            if top == "polopt" and rest and rest.split(".")[0] not in CORE:
                yield node.lineno, f"a wing imports {name}, which is no module of the core"


def bare_violations(tree: ast.AST) -> Found:
    """Users have folders named ``agents`` and ``envs``: ours are ``polopt.agents`` and ``polopt.envs``."""
    for node in ast.walk(tree):
        for name in imported(node):
            if name.split(".")[0] in WINGS:
                yield node.lineno, f"imports {name}, which is polopt.{name}"


UNPICKLERS = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal")
PICKLES = ("torch.load", "torch.save", "yaml.load", "yaml.unsafe_load", "yaml.full_load")


def _weights_only(call: ast.Call) -> bool:
    named = {k.arg: k.value for k in call.keywords}
    value = named.get("weights_only")
    plain = None not in named and isinstance(value, ast.Constant) and value.value is True
    return plain and ast.unparse(call.func) == "torch.load"


def code_from_data(tree: ast.AST) -> Found:
    """Whatever can run code that a file holds. ``torch.load`` called with ``weights_only=True`` in plain sight cannot."""
    safe = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and _weights_only(node)]
    for node in ast.walk(tree):
        for name in imported(node):
            if name.split(".")[0] in UNPICKLERS or name in (
                "torch.load",
                "torch.save",
                "yaml.load",
                "yaml.unsafe_load",
            ):
                yield node.lineno, f"imports {name}"
        match node:
            case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as attr) if node not in safe:
                yield node.lineno, f"torch.{attr} is pickle"
            case ast.Attribute(value=ast.Name(id="yaml"), attr="load" | "unsafe_load" | "full_load" as attr):
                yield node.lineno, f"yaml.{attr}: use yaml.safe_load"
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                yield node.lineno, f"{name}()"
            case ast.keyword(arg="allow_pickle", value=value) if not (
                isinstance(value, ast.Constant) and value.value is False
            ):
                yield value.lineno, "allow_pickle"


def report(folders: tuple[str, ...], rule: Callable[[ast.AST, Path], Found]) -> list[str]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files, f"no Python file in {folders}"
    found = []
    for path in files:
        where = path.relative_to(ROOT)
        found += [f"{where}:{line}: {what}" for line, what in rule(ast.parse(path.read_text("utf-8")), where)]
    return found


def test_the_core_imports_no_wing():
    assert report(("polopt",), lambda tree, path: core_violations(tree, len(path.parts) - 1)) == []


def test_a_wing_imports_the_core_and_itself_only():
    assert report(WINGS, lambda tree, path: wing_violations(tree, len(path.parts) - 1)) == []


def test_nothing_imports_a_wing_by_its_bare_name():
    assert report(EVERYWHERE, lambda tree, _: bare_violations(tree)) == []


def test_no_file_of_ours_can_run_code_that_a_file_holds():
    assert report(OURS, lambda tree, _: code_from_data(tree)) == []


BAD = [
    (core_violations, "import polopt.envs"),
    (core_violations, "if True:\n    from polopt.agents.on_policy import ppo"),
    (core_violations, "class A:\n    from polopt import theory"),
    (core_violations, "from . import envs"),
    (core_violations, "from .agents.on_policy import ppo"),
    (lambda tree: core_violations(tree, 2), "from ..envs import make_env"),
    (core_violations, "import importlib\nx = importlib.import_module('polopt.envs.classic')"),
    (lambda tree: wing_violations(tree, 1), "def f():\n    from polopt.agents import x"),
    (lambda tree: wing_violations(tree, 1), "from polopt import PPO"),
    (lambda tree: wing_violations(tree, 1), "from ..env import Env"),
    (lambda tree: wing_violations(tree, 2), "from ...agents import x"),
    (bare_violations, "import envs"),
    (bare_violations, "def f():\n    from agents.on_policy import ppo"),
    (code_from_data, "import pickle"),
    (code_from_data, "def f():\n    from cloudpickle import loads"),
    (code_from_data, "torch.load(path)"),
    (code_from_data, "torch.load(path, weights_only=False)"),
    (code_from_data, "torch.load(path, weights_only=flag)"),
    (code_from_data, "torch.load(path, weights_only=True, **more)"),
    (code_from_data, "torch.save(x, path, weights_only=True)"),
    (code_from_data, "read = torch.load"),
    (code_from_data, "from torch import load"),
    (code_from_data, "eval(text)"),
    (code_from_data, "np.load(path, allow_pickle=True)"),
    (code_from_data, "yaml.load(text)"),
]
GOOD = [
    (core_violations, "def f():\n    from polopt.envs import make_env\nfrom .env import Env\nimport polopt.env"),
    (lambda tree: core_violations(tree, 2), "from .theory import x\nfrom ..env import Env"),
    (lambda tree: wing_violations(tree, 1), "import polopt\nfrom polopt.env import Env\nfrom .classic import x"),
    (lambda tree: wing_violations(tree, 2), "from ..base import x"),
    (bare_violations, "import polopt.envs\nfrom . import envs\nimport gymnasium.envs"),
    (code_from_data, "torch.load(path, map_location='cpu', weights_only=True)"),
    (code_from_data, "policy.eval()\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)\nmodel.load(p)\nimport torch"),
]


@pytest.mark.parametrize(("rule", "source"), BAD)
def test_each_rule_sees_what_breaks_it(rule: Callable[[ast.AST], Found], source: str):
    assert list(rule(ast.parse(source)))


@pytest.mark.parametrize(("rule", "source"), GOOD)
def test_each_rule_lets_pass_what_keeps_it(rule: Callable[[ast.AST], Found], source: str):
    assert list(rule(ast.parse(source))) == []


HEAVY = ("torch", "gymnasium", "mujoco", "numpy", "scipy", "stable_baselines3", "matplotlib", "tensorboard", "optuna")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import polopt", set()),
        # Listing the algorithms lists folders; importlib.resources imports the empty package that holds them.
        ("import polopt; dir(polopt)", {"polopt.agents"}),
    ],
)
def test_import_polopt_loads_nothing_heavy(code: str, allowed: set[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}; import json, sys; print(json.dumps(sorted(sys.modules)))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = json.loads(done.stdout)
    assert "polopt" in loaded
    wings = {name for name in loaded if name.startswith(tuple(f"polopt.{wing}" for wing in WINGS))}
    assert {name for name in loaded if name in (*HEAVY, *WINGS)} | (wings - allowed) == set()
