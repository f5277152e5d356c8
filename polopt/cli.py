"""The command line. Nothing heavy is loaded before it is known what is wanted."""

from __future__ import annotations

import ast
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from signal import SIGINT
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from rich.markup import escape
from tyro.conf import Positional

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

USAGE, FAILED, STOPPED = 2, 1, 128
"""Exit codes: asked for wrongly; failed on the way; stopped by a signal (plus its number)."""


class UsageError(Exception):
    """What was asked for cannot be."""


_TRAIN_HELP = """\
[bold]polopt train ALGO --env ID[/] [OPTIONS]   train
[bold]polopt train ALGO --dataset ID[/] [OPTIONS]
                                        learn from recorded data alone
[bold]polopt train ALGO --help[/]               every hyperparameter of ALGO, with its default and range
[bold]polopt train --resume DIR[/]              go on with a run, as if it had never stopped

ALGO is one of {agents}.
A run directory holds config.json, manifest.json, progress.csv, TensorBoard events, checkpoints/ and model.zip."""


# -- commands ----------------------------------------------------------------------------------------------------------


def train(args: list[str]) -> int:
    """Train an algorithm in a run directory, or go on with one."""
    if any(a.split("=")[0] == "--resume" for a in args):
        return _resume(_parse(Resume, args, "train"))
    if not args or args[0].startswith("-"):
        from polopt.registry import list_agents

        if {"-h", "--help"} & set(args):
            _console().print(_TRAIN_HELP.format(agents=", ".join(list_agents())), highlight=False)
            return 0
        raise UsageError(f"train what? polopt train ALGO --env ID, where ALGO is one of {', '.join(list_agents())}")
    name, rest = args[0], args[1:]
    if rest and not rest[0].startswith("-"):
        raise UsageError(f"{rest[0]!r} is not an option; the environment is given by --env {rest[0]}")
    with _usage():
        from polopt.registry import agent_class

        cls = agent_class(name)
        defaults = _defaults(cls.__name__, rest)
    parsed = _parse(_train_class(cls, defaults), rest, f"train {cls.__name__}")
    hyper = {f.name: getattr(parsed.hyperparameters, f.name) for f in fields(parsed.hyperparameters)}
    steps = parsed.total_timesteps
    recorded: dict[str, Any] = {}
    if parsed.dataset is not None:
        if parsed.env is None:
            parsed.env, recorded = _recorded_in(parsed.dataset)
        if any(word.split("=")[0].replace("_", "-") == "--gradient-steps" for word in rest):
            steps = hyper.pop("gradient_steps")  # all there are, not those of an update
    elif parsed.env is None:
        raise UsageError("the environment is given by --env ID")
    out = parsed.out or Path("runs") / f"{cls.__name__}_{parsed.env.replace('/', '_')}_s{parsed.seed}"
    with _usage():
        from polopt.presets import policy_kwargs
        from polopt.run import RunError, new_run

        env_kwargs = recorded | _pairs("--env-kwargs", parsed.env_kwargs)
        if parsed.backend != "auto":
            env_kwargs["backend"] = parsed.backend
        kwargs = defaults.get("policy_kwargs", {}) | policy_kwargs(_pairs("--policy-kwargs", parsed.policy_kwargs))
        try:
            session = new_run(
                cls.__name__,
                parsed.env,
                steps,
                out,
                seed=parsed.seed,
                dataset=parsed.dataset,
                prior=parsed.prior,
                checkpoint_every=parsed.checkpoint_every,
                device=parsed.device,
                verbose=parsed.verbose,
                env_kwargs=env_kwargs,
                policy_kwargs=kwargs,
                **hyper,
            )
        except RunError as error:
            raise UsageError(str(error)) from error
    return _run(session, parsed.progress_bar)


def _recorded_in(dataset: str) -> tuple[str, dict[str, Any]]:
    """The id of the environment that a dataset says it was recorded in, and its arguments."""
    with _usage():
        from gymnasium.envs.registration import registry

        from polopt.dataset_files import load_dataset

        data = load_dataset(dataset)
        env_id = data.env_id
    if ":" not in (env_id or "") and env_id not in registry:  # module:Name-v0 is registered when it is made
        raise UsageError(f"{dataset} does not say in which environment it was recorded: give --env ID to evaluate in")
    return env_id, data.env_kwargs


def _resume(parsed: Resume) -> int:
    from polopt.dataset import DatasetError
    from polopt.run import RunError, reopen

    try:
        session = reopen(parsed.resume, total_timesteps=parsed.total_timesteps, verbose=parsed.verbose)
    except (RunError, ValueError, TypeError, DatasetError, OSError) as error:
        raise UsageError(str(error)) from error
    if session.finished:
        _console().print(
            f"{parsed.resume} has run all its {session.total_timesteps:,} steps: {parsed.resume}/model.zip"
        )
        return 0
    return _run(session, parsed.progress_bar)


def _run(session: Any, progress_bar: bool) -> int:
    from polopt.errors import EnvError, NonFiniteError
    from polopt.files import FileError
    from polopt.run import RunError

    console, model, folder = _console(), session.model, session.folder
    begun = f"from step {model.num_timesteps:,}" if model.num_timesteps else f"seed {model.seed}"
    source, unit = f"{model.n_envs} world{'s' * (model.n_envs > 1)}", "steps"
    if session.dataset is not None:
        source, unit = f"{session.dataset.name}, {len(session.dataset):,} rows", "gradient steps"
    console.print(
        f"[bold]{type(model).__name__}[/] on [bold]{model.env.id}[/]  {source}, {model.parameter_count:,} parameters, "
        f"{session.total_timesteps:,} {unit}, {begun}  [dim]→ {folder}[/]",
        highlight=False,
    )
    try:
        run = session.train(progress_bar)
    except (EnvError, NonFiniteError, RunError, FileError, OSError) as error:
        _error(f"{error}\nThe checkpoints are kept: polopt train --resume {folder} goes on from the last one.")
        return FAILED
    if not run.finished:
        console.print(f"stopped at step {model.num_timesteps:,}. Go on with  [bold]polopt train --resume {folder}[/]")
        return STOPPED + (run.signal or 0)
    returns = [e["r"] for e in model.ep_info_buffer]
    if returns:
        mean = sum(returns) / len(returns)
        console.print(f"mean return of the last {len(returns)} episodes while exploring: [bold]{mean:,.1f}[/]")
    console.print(f"{folder}/model.zip   [dim]polopt evaluate {folder}   polopt record {folder}[/]", highlight=False)
    return 0


def evaluate(args: list[str]) -> int:
    """Play episodes with a trained model and print the returns."""
    parsed = _parse(Evaluate, args, "evaluate")
    with _usage():
        model, env, env_kwargs = _load(parsed.path, parsed.env)
        from polopt.evaluate import evaluate_policy, normalized_score

        returns, lengths = evaluate_policy(
            model, env, parsed.episodes, deterministic=not parsed.stochastic, return_episode_rewards=True,
            num_envs=parsed.num_envs, seed=parsed.seed, env_kwargs=env_kwargs,
        )  # fmt: skip
    import numpy as np

    how = "sampled" if parsed.stochastic else "greedy"
    from polopt.envs.scores import reference

    score = "" if reference(env) is None else f"{normalized_score(env, np.mean(returns)):.1f}"
    rows = [
        ("mean return", f"{np.mean(returns):,.2f} ± {np.std(returns):,.2f}"),
        *([("D4RL's score", f"{score}  (constants of its v2 task)")] if score else []),
        ("lowest, highest", f"{np.min(returns):,.2f}, {np.max(returns):,.2f}"),
        ("mean length", f"{np.mean(lengths):,.1f} steps"),
    ]
    _table(f"{type(model).__name__} on {env}: {parsed.episodes} {how} episodes", rows)
    return 0


def record(args: list[str]) -> int:
    """Film a trained model: a video, or a strip of pictures where the file is a .png."""
    parsed = _parse(Record, args, "record")
    with _usage():
        model, env, env_kwargs = _load(parsed.path, parsed.env)
        from polopt.film import check_target, film, save

        out = parsed.out or (parsed.path if parsed.path.is_dir() else parsed.path.parent) / "video.mp4"
        check_target(out)
        footage = film(
            model, env, env_kwargs=env_kwargs, seed=parsed.seed, steps=parsed.steps, deterministic=not parsed.stochastic
        )
        save(footage, out)
    _console().print(f"{out}  [dim]{len(footage.pictures)} pictures, return {footage.total:,.1f}[/]", highlight=False)
    return 0


def list_(args: list[str]) -> int:
    """List what there is: agents, or envs."""
    parsed = _parse(List, args, "list")
    if parsed.what == "agents":
        from polopt.presets import presets
        from polopt.registry import list_agents

        rows = [
            (name, module.split(".")[2].replace("_", "-"), _first_line(module, name), ", ".join(presets(name)) or "–")
            for name, module in list_agents().items()
        ]
        _table("Algorithms", rows, ("name", "family", "paper", "presets"))
        return 0
    from polopt.envs.table import TABLE

    rows = [
        (
            name,
            world.kind,
            str(world.max_episode_steps),
            "–" if world.reward_threshold is None else f"{world.reward_threshold:g}",
        )
        for name, world in sorted(TABLE.items())
    ]
    _table("Built-in environments", rows, ("id", "backend", "steps", "solved at"))
    _console().print("Every id registered with Gymnasium works as well.")
    return 0


def dataset(args: list[str]) -> int:
    """Record a dataset with a trainer of our own, or list those that are here."""
    action = args[0] if args else ""
    if action == "list":
        from polopt.dataset_files import list_datasets, root

        known = list_datasets()
        print("\n".join(known) if known else f"there is none in {root()}")
        return 0
    if action in ("-h", "--help"):
        print("polopt dataset list: the datasets there are\n")
    elif action != "generate":
        raise UsageError("polopt dataset generate --env ID --kind KIND, or polopt dataset list")
    parsed = _parse(Generate, args[1:] if action == "generate" else args, "dataset generate")
    if parsed.out is not None and parsed.out.suffix != ".hdf5":
        raise UsageError(f"--out {parsed.out} must end in .hdf5; for a Minari folder give --id")
    name = parsed.env.rpartition("/")[2].lower()
    dataset_id = parsed.id or f"polopt/{name}/{parsed.kind}-s{parsed.seed}-v0"
    with _usage():
        from polopt.dataset_files import check_id, root, write_d4rl, write_minari
        from polopt.generate import generate

        check_id(dataset_id)
        if (target := parsed.out or root() / dataset_id).exists():
            raise UsageError(f"{target} exists: choose another name, or delete it")
        try:  # before hours of training
            target.parent.mkdir(parents=True, exist_ok=True)
            writable = os.access(target.parent, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            raise UsageError(f"{target} cannot be written: {target.parent} is no folder that can be written to")
        data = generate(
            parsed.env, parsed.kind, parsed.steps, parsed.seed, algorithm=parsed.algorithm, train_steps=parsed.train_steps,
            medium_return=parsed.medium_return, progress_bar=parsed.progress_bar,
            env_kwargs=_pairs("--env-kwargs", parsed.env_kwargs), **_pairs("--hyperparameters", parsed.hyperparameters),
        )  # fmt: skip
        write_d4rl(data, target) if parsed.out else write_minari(data, dataset_id)
    _console().print(f"{target}\n{data!r}", highlight=False)
    return 0


def theory(args: list[str]) -> int:
    """Draw what a paper's theorem says beside what exact computation gives."""
    action = args[0] if args else ""
    with _usage():
        from polopt import theory as wing
    if action == "list":
        for name in wing.list_experiments():
            print(name)
        return 0
    if action in ("-h", "--help"):
        print("polopt theory list: the experiments there are\n")
    elif action != "run":
        raise UsageError("polopt theory list, or polopt theory run NAME [--out DIR] [--seed N]")
    parsed = _parse(Theory, args[1:] if action == "run" else args, "theory run")
    known = wing.list_experiments()
    if parsed.name not in known:
        raise UsageError(f"there is no experiment {parsed.name!r}; {_near(parsed.name, known)}")
    wing.run(parsed.name, parsed.out, parsed.seed)
    return 0


def bench(args: list[str]) -> int:
    """Run what is unfinished of a suite of benchmark cells."""
    parsed = _parse(Bench, args, "bench")
    with _usage():
        from polopt.bench import run_suite

        outcome = run_suite(parsed.suite, parsed.workers, parsed.only or None, parsed.root)
    return FAILED if outcome.failed else 0


def report(args: list[str]) -> int:
    """Draw curves and tables from a suite's records."""
    parsed = _parse(Report, args, "report")
    with _usage():
        from polopt.bench.report import report as draw

        done = draw(parsed.path, parsed.out, parsed.root)
    for file in (done.markdown, *done.figures):
        print(file)
    for note in done.notes:
        print(note)
    return 0


def demo(args: list[str]) -> int:
    """Train for about a minute, and show what was learned."""
    parsed = _parse(Demo, args, "demo")
    with _usage():
        from polopt.demo import run
        from polopt.run import RunError

        try:
            return run(parsed.out, parsed.seconds, parsed.seed)
        except RunError as error:
            raise UsageError(str(error)) from error


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "record": record,
    "list": list_,
    "dataset": dataset,
    "demo": demo,
    "bench": bench,
    "report": report,
    "theory": theory,
}


# -- arguments ---------------------------------------------------------------------------------------------------------


@dataclass
class Train:
    """Train an algorithm in a run directory."""

    env: str | None = None
    """environment id (polopt list envs, or any of Gymnasium's); by default the dataset's"""
    prior: str | None = None
    """learn from this dataset beside the environment (RLPD)"""
    dataset: str | None = None
    """learn from this alone: a local Minari id, a Minari folder, or a D4RL file"""
    total_timesteps: Annotated[int, tyro.conf.arg(aliases=["-n", "--n-timesteps"])] = 1_000_000
    """steps, summed over all worlds; with --dataset gradient steps, which --gradient-steps may say as well"""
    seed: int = 0
    """of networks, noise, minibatches and environments"""
    out: Path | None = None
    """run directory; by default runs/ALGO_ENV_sSEED"""
    preset: bool = False
    """start from the tuned hyperparameters for this environment"""
    backend: Literal["auto", "native", "torch", "gymnasium"] = "auto"
    """what steps the worlds"""
    device: str = "auto"
    """a torch device; auto is the environment's"""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """arguments of the environment"""
    policy_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """net_arch=[256,256] activation_fn=ReLU log_std_init=-1 ..."""
    checkpoint_every: int | None = None
    """steps between checkpoints; None: every 30 seconds"""
    progress_bar: bool = field(default_factory=sys.stderr.isatty)
    """show rate and time left"""
    verbose: int = 0
    """1 prints the log table"""


@dataclass
class Resume:
    """Go on with a run from its last checkpoint, as if it had never stopped."""

    resume: Path
    """the run directory"""
    total_timesteps: int | None = None
    """run on to so many steps, more than the run was begun for"""
    progress_bar: bool = field(default_factory=sys.stderr.isatty)
    """show rate and time left"""
    verbose: int = 0
    """1 prints the log table"""


@dataclass
class Evaluate:
    """Play episodes with a trained model and print the returns."""

    path: Positional[Path]
    """a run directory, or a model file"""
    episodes: int = 10
    env: str | None = None
    """environment id; by default the one it was trained on"""
    num_envs: int | None = None
    """worlds side by side; by default one an episode, at most 16"""
    seed: int = 0
    """world i starts from seed + i"""
    stochastic: bool = False
    """sample actions instead of taking the policy's mode"""


@dataclass
class Record:
    """Film a trained model: a video (.mp4, .gif), or a strip of pictures (.png)."""

    path: Positional[Path]
    """a run directory, or a model file"""
    out: Path | None = None
    """the file to write; by default video.mp4 beside the model"""
    env: str | None = None
    """environment id; by default the one it was trained on"""
    steps: int | None = None
    """environment steps to show; by default one episode"""
    seed: int = 0
    stochastic: bool = False
    """sample actions instead of taking the policy's mode"""


@dataclass
class List:
    """List what there is."""

    what: Positional[Literal["agents", "envs"]]


@dataclass
class Generate:
    """Record a dataset: a policy's own rollouts, or what a trainer saw. Written whole or not at all.

    The trainer's final policy stands for the expert; medium is where it had come a third of the way from the untrained
    policy's return to the final one, and medium-replay is all it saw until then."""

    env: str
    """environment id"""
    kind: Literal["random", "medium", "medium-replay", "expert"]
    """whose rows"""
    steps: int = 100_000
    """rows; of medium-replay at most so many, the latest"""
    seed: int = 0
    id: str | None = None
    """Minari id to write under; by default polopt/ENV/KIND-sSEED-v0"""
    out: Path | None = None
    """write this flat D4RL file (.hdf5) instead"""
    algorithm: str = "SAC"
    """the trainer"""
    train_steps: int = 1_000_000
    """steps it trains for"""
    medium_return: float | None = None
    """medium is the first evaluation at or above this return, and training stops there"""
    hyperparameters: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """the trainer's: compile=True learning_starts=5000 ..."""
    env_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """arguments of the environment"""
    progress_bar: bool = field(default_factory=sys.stderr.isatty)
    """show rate and time left"""


@dataclass
class Theory:
    """Run an experiment, draw it, and print measured numbers beside the theory's."""

    name: Positional[str]
    """one of `polopt theory list`"""
    out: Path = Path("theory")
    """folder of the picture"""
    seed: int = 0


@dataclass
class Bench:
    """Run what is unfinished of a suite of benchmark cells; killed and called again, it goes on."""

    suite: Positional[Path]
    """the suite's TOML file"""
    workers: int = 2
    """cells that run at once, one core each"""
    only: tuple[str, ...] = ()
    """shell patterns on label/env/seed"""
    root: Path | None = None
    """folder above records/; by default the suite's own"""


@dataclass
class Report:
    """Draw curves with intervals, and tables, from a suite's records."""

    path: Positional[Path]
    """a suite file, or a folder of records"""
    out: Path | None = None
    """folder of the figures and report.md; by default report/ beside the records"""
    root: Path | None = None


@dataclass
class Demo:
    """Train for about a minute, and show what was learned."""

    out: Path = Path("demo")
    """folder of the curve, the video and the run"""
    seconds: float = 60.0
    """how long to train [s]"""
    seed: int = 0


def _train_class(cls: Any, defaults: dict[str, Any]) -> Any:
    """The arguments of ``train`` for an algorithm, its hyperparameters among them."""
    rows: list[tuple[str, Any, Any]] = []
    hints = get_type_hints(cls.Config)
    for f in fields(cls.Config):
        if f.type == "Any":  # a class, which a shell cannot give
            continue
        hint = _for_shell(hints[f.name])
        interval, doc = f.metadata.get("interval", ""), f.metadata.get("doc", "")
        notes = tyro.conf.arg(help=f"{doc} {interval}".strip(), aliases=["--n-envs"] if f.name == "num_envs" else None)
        rows.append((f.name, Annotated[hint, notes], field(default=defaults.get(f.name, f.default))))
    hyperparameters = make_dataclass("hyperparameters", rows)
    own = (
        "hyperparameters",
        Annotated[hyperparameters, tyro.conf.arg(name="")],
        field(default_factory=hyperparameters),
    )
    return make_dataclass("Train", [own], bases=(Train,))


def _for_shell(hint: Any) -> Any:
    """A hyperparameter's type as far as a shell can give it: no callables."""
    members = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    plain = [m for m in members if m in (int, float, str, bool, type(None)) or get_origin(m) in (Literal, tuple)]
    return Union[tuple(plain)] if plain else str  # noqa: UP007 - built from a list


def _defaults(algorithm: str, args: list[str]) -> dict[str, Any]:
    """The preset's hyperparameters where ``--preset`` is among the arguments."""
    if "--preset" not in args:
        return {}
    from polopt.presets import preset

    env = next((b for a, b in pairwise(args) if a == "--env"), None)
    env = env or next((a.removeprefix("--env=") for a in args if a.startswith("--env=")), None)
    if env is None:
        raise UsageError("--preset needs --env ID")
    return preset(algorithm, env)


def _pairs(flag: str, words: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` words; a value is a Python literal, else text."""
    out: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.isidentifier()):
            raise UsageError(f"{flag} takes KEY=VALUE, not {word!r}")
        try:
            out[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[key] = {"true": True, "false": False, "null": None}.get(value, value)
    return out


def _parse(cls: Any, args: list[str], command: str) -> Any:
    return tyro.cli(cls, args=args, prog=f"polopt {command}")


# -- what the commands share -------------------------------------------------------------------------------------------


@contextmanager
def _usage() -> Iterator[None]:
    """Around what checks what was asked for: its complaints are the user's, not a bug's traceback."""
    from polopt.errors import RenderError

    try:
        yield
    except (ValueError, TypeError, NotImplementedError, OSError, RenderError) as error:
        raise UsageError(str(error)) from error
    except Exception as error:
        if type(error).__module__.startswith(
            "gymnasium.error"
        ):  # an environment's own package is missing, and the like
            raise UsageError(str(error)) from error
        raise


def _load(path: Path, env: str | None) -> tuple[Any, str, dict[str, Any]]:
    """The model, the environment to show it in, and that one's arguments."""
    from polopt.evaluate import load, trained_on

    known = trained_on(path)
    if env is None and known is None:
        raise UsageError(f"{path} does not say which environment it was trained on: give --env ID")
    model = load(path, device="cpu")
    env_kwargs = model.env_kwargs if env in (None, known) else {}
    return model, env or known, env_kwargs


def _near(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(known)}"


def _first_line(module: str, name: str) -> str:
    """What an algorithm's file says it is, read without importing it."""
    _, _, family, file = module.split(".")
    text = ast.get_docstring(ast.parse((files("polopt.agents") / family / f"{file}.py").read_text("utf-8"))) or ""
    return text.splitlines()[0].removeprefix(f"{name}: ").rstrip(".") if text else ""


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True)


def _table(title: str, rows: Sequence[tuple[str, ...]], head: tuple[str, ...] | None = None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, show_header=head is not None, title_justify="left", title_style="bold")
    for i, name in enumerate(head or rows[0]):
        table.add_column(name, style="cyan" if i == 0 else "", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _error(text: str) -> None:
    _console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", highlight=False)


def _overview() -> None:
    from rich.table import Table

    console = _console()
    console.print("\n[bold]polopt[/]  policy optimization for classical control\n", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 2))
    for name, command in COMMANDS.items():
        table.add_row(f"[cyan]{name}[/]", command.__doc__)
    console.print(table)
    console.print(
        "\n  [dim]$[/] polopt train PPO --env HalfCheetah-v5 --preset --out runs/cheetah"
        "\n  [dim]$[/] polopt evaluate runs/cheetah --episodes 20"
        "\n  [dim]$[/] polopt record runs/cheetah --out cheetah.mp4"
        "\n\n  polopt COMMAND --help says more.\n",
        highlight=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0 done, 1 failed on the way, 2 asked for wrongly, 130 stopped by Ctrl-C.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        _overview()
        return 0
    if args[0] == "--version":
        from polopt import __version__

        print(__version__)
        return 0
    warnings.showwarning = _warn
    try:
        if args[0] not in COMMANDS:
            raise UsageError(f"there is no command {args[0]!r}; {_near(args[0], COMMANDS)}")
        return COMMANDS[args[0]](args[1:])
    except UsageError as error:
        _error(str(error))
        return USAGE
    except KeyboardInterrupt:
        _error("stopped")
        return STOPPED + SIGINT
    except SystemExit as stop:  # argument parsing
        return stop.code if isinstance(stop.code, int) else USAGE


def _warn(message: Warning | str, category: type[Warning], *where: Any, **_: Any) -> None:
    _console(stderr=True).print(f"[yellow]note:[/] {escape(str(message))}", highlight=False)
