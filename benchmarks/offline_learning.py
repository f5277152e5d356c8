"""TD3+BC and PRDC on datasets recorded here: HalfCheetah and Hopper, medium and medium-replay, three seeds.

    python benchmarks/offline_learning.py                                  # everything that is not there yet
    python benchmarks/offline_learning.py --report                         # the table of what is there
    python benchmarks/offline_learning.py --only 'PRDC/Hopper*/medium/0'

Each cell is a run directory under ``benchmarks/.cells/offline_learning`` and a record under ``records/offline_learning``; a
cell that was killed goes on from its last checkpoint, one that has its record is skipped. Datasets are Minari folders
beside the cells, made first, one of each kind per task (seed 0), by SAC stopped at a third of D4RL's expert or at the
end of its budget, whichever comes first. Sizes are small so that all of it is an hour on one core; they are in each record.
Scores are D4RL's constants on Gymnasium v5 ("local, v5"): a rough guide beside published ones. The last policy is scored,
over 10 episodes with its mode; ``data`` is the mean return of the dataset's own finished episodes.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from recording import RECORDS, made_with, write

CELLS, HERE = RECORDS.parent / ".cells" / "offline_learning", RECORDS / "offline_learning"
TASKS = ("HalfCheetah-v5", "Hopper-v5")
KINDS = ("medium", "medium-replay")
SEEDS = (0, 1, 2)
SIZES: dict[str, Any] = dict(rows=50_000, train_steps=40_000, gradient_steps=12_000)
# One alpha for both: PRDC's own on HalfCheetah is 40, and beside TD3+BC at 2.5 that would mix two effects.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "TD3BC": ("TD3BC", dict(alpha=2.5, compile=True)),
    "PRDC": ("PRDC", dict(alpha=2.5, compile=True)),
}


def dataset_of(env: str, kind: str, sizes: dict[str, Any]) -> Path:
    """The folder of a dataset; all kinds of a task are recorded from one training, where they are not there yet."""
    from polopt.envs.scores import reference

    from polopt.dataset_files import write_minari
    from polopt.generate import generate_all

    names = {k: f"local/{env.lower()}/{k}-{sizes['rows']}-{sizes['train_steps']}-v0" for k in KINDS}
    folders = {k: CELLS / "datasets" / name for k, name in names.items()}
    if missing := [k for k in KINDS if not folders[k].exists()]:
        low, high = reference(env)
        made = generate_all(
            env, missing, sizes["rows"], 0, train_steps=sizes["train_steps"], medium_return=low + (high - low) / 3,
            evaluations=min(20, sizes["train_steps"]), progress_bar=True,
            learning_starts=min(5000, sizes["train_steps"] // 4), compile=True,
        )  # fmt: skip
        for k, data in made.items():
            write_minari(data, names[k], folders[k])
    return folders[kind]


def run(cell: tuple[str, str, str, int], sizes: dict[str, Any]) -> dict[str, Any]:
    import polopt
    from polopt.dataset_files import load_dataset
    from polopt.run import new_run, reopen

    method, env, kind, seed = cell
    algorithm, hyper = METHODS[method]
    source = dataset_of(env, kind, sizes)
    folder = CELLS / f"{method}-{env}-{kind}-{seed}-{sizes['gradient_steps']}-{sizes['rows']}-{sizes['train_steps']}"
    if (folder / "config.json").exists():
        session = reopen(folder)
    else:
        session = new_run(algorithm, env, sizes["gradient_steps"], folder, seed=seed, dataset=source, **hyper)
    started = time.process_time()
    done = session.train(progress_bar=True)
    if not done.finished:
        raise SystemExit(128 + (done.signal or 0))
    data = load_dataset(source)
    returns, _ = polopt.evaluate_policy(done.model, env, 10, seed=10_000, return_episode_rewards=True)
    mean, whole = statistics.mean(returns), data.returns()
    return dict(
        benchmark="offline_learning", **made_with("torch", "numpy", "mujoco", "gymnasium"),
        method=method, algorithm=algorithm, env=env, kind=kind, seed=seed,
        hyperparameters=hyper, **sizes, dataset=dict(name=data.name, rows=len(data), sha256=data.hash),
        data=dict(mean=float(whole.mean()), best=float(whole.max()), score=float(data.score(whole.mean()))),
        returns=returns, score=float(polopt.normalized_score(env, mean)), label="local, v5",
        cpu_seconds=time.process_time() - started,
    )  # fmt: skip


def report(records: list[dict[str, Any]]) -> None:
    rows: dict[tuple[str, str], dict[str, list[float]]] = {}
    for r in records:
        at = rows.setdefault((r["env"], r["kind"]), {})
        at.setdefault(r["method"], []).append(r["score"])
        at["data"] = [r["data"]["score"]]
    print("| task (local, v5) | " + " | ".join(("data", *METHODS)) + " |\n|---|" + "---|" * (len(METHODS) + 1))
    for (env, kind), found in rows.items():
        shown = [found.get(name, []) for name in ("data", *METHODS)]
        cells = [f"{statistics.mean(x):.1f} ± {statistics.pstdev(x):.1f} ({len(x)})" if x else "-" for x in shown]
        print(f"| {env} {kind} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="shell patterns on method/env/kind/seed")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--records", type=Path, default=HERE)
    for name, value in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()
    os.environ.setdefault("POLOPT_CACHE", str(CELLS / "cache"))
    sizes = {name: getattr(args, name) for name in SIZES}
    cells = [(m, env, kind, seed) for seed in SEEDS for env in TASKS for kind in KINDS for m in METHODS]
    for cell in cells:
        path = args.records / f"{'-'.join(map(str, cell))}.json"
        name = "/".join(map(str, cell))
        if args.report or path.exists() or not any(fnmatch.fnmatch(name, p) for p in args.only):
            continue
        print(name, flush=True)
        record = run(cell, sizes)
        write(path, record)
        print(f"    score {record['score']:.1f}, data {record['data']['score']:.1f}", flush=True)
    report([json.loads(p.read_text()) for p in sorted(args.records.glob("*.json"))])


if __name__ == "__main__":
    main()
