"""Speed of the tabular wing: sparse value iteration, and what running seeds side by side saves over a loop.

    python benchmarks/theory_speed.py

Each comparison runs both sides in turn for several rounds; a ratio is the median over the rounds. Times are processor
seconds of this process with one BLAS thread, so that a busy machine falls out; the wall clock is kept beside them.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from polopt.theory import value_iteration
from polopt.theory.generators import layered, sparse_garnet
from polopt.theory.methods import bobw_po, delayed_bandit_po, robust_mdp, stepmix
from recording import RECORDS, made_with, write

RECORD = RECORDS / "theory_speed.json"
SEEDS = 32


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Processor and wall-clock seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def compare(fast: Callable[[], object], slow: Callable[[], object], rounds: int) -> dict[str, object]:
    """Both sides in turn; their times a round and the median ratio of processor seconds."""
    pairs = [(timed(fast), timed(slow)) for _ in range(rounds)]
    return {
        "together": [round(a["cpu"], 4) for a, _ in pairs],
        "loop": [round(b["cpu"], 4) for _, b in pairs],
        "ratio": round(statistics.median(b["cpu"] / a["cpu"] for a, b in pairs), 1),
    }


def sparse_value_iteration(rounds: int) -> dict[str, object]:
    """1e5 states, 10 actions, 5 successors a pair, gamma .99, to 1e-9 in sup norm."""
    mdp = sparse_garnet(100_000, 10, 5, 0.99)
    sweeps = value_iteration(mdp).iterations
    times = [timed(lambda: value_iteration(mdp)) for _ in range(rounds)]
    return {
        "states": 100_000,
        "actions": 10,
        "successors": 5,
        "gamma": 0.99,
        "sweeps": sweeps,
        "cpu_seconds": [round(t["cpu"], 3) for t in times],
        "wall_seconds": [round(t["wall"], 3) for t in times],
    }


def regret_loops(rounds: int) -> dict[str, object]:
    """Each regret experiment's loop with 32 seeds in one array program, and one seed after another."""
    mdp, baseline = stepmix.testbed()
    world = layered(3, 3, 3)
    means = bobw_po.loss_means(world.r.shape, np.full(SEEDS, 0.2), np.random.default_rng(0))
    costs = delayed_bandit_po.cost_means(world.r.shape, np.random.default_rng(0))

    def explore(n: int) -> object:
        return stepmix.explore(mdp, baseline, stepmix.stepmix_weights, 0.1, 100, n)

    def adversarial(n: int) -> object:
        return bobw_po.play(world, means[:n], np.zeros(100), bobw_po.tsallis_policy, np.array([100]), 0)

    def delayed(n: int) -> object:
        ratio, eta = delayed_bandit_po.delay_adapted_ratio, np.full(n, 0.01)
        return delayed_bandit_po.play(world, costs, np.full(100, 10), eta, ratio, np.array([100]), 0)

    loops = {"stepmix": explore, "bobw_po": adversarial, "delayed_bandit_po": delayed}
    return {
        name: {"seeds": SEEDS, "episodes": 100}
        | compare(partial(loop, SEEDS), lambda loop=loop: [loop(1) for _ in range(SEEDS)], rounds)
        for name, loop in loops.items()
    }


def robust_statistics(rounds: int) -> dict[str, object]:
    """R2PVI's closed form of a TV penalty against DRPVI's search over a TV ball, 30 factors and 2000 transitions."""
    rng = np.random.default_rng(0)
    W, V = rng.normal(size=(30, 2000)), rng.random(2000)

    def penalty() -> object:
        return [robust_mdp.tv_statistic(W, V, 0.1) for _ in range(100)]

    result = compare(penalty, lambda: robust_mdp.tv_ball_statistic(W, V, 0.1), rounds)
    return {
        "factors": 30,
        "transitions": 2000,
        "penalty_seconds": [round(t / 100, 7) for t in result["together"]],
        "ball_seconds": result["loop"],
        "ratio": round(100 * result["ratio"], 0),
    }


def main() -> None:
    """Measure everything, print it and write the record."""
    record = {
        **made_with("polopt", "numpy", "scipy"),
        "blas_threads": 1,
        "sparse_value_iteration": sparse_value_iteration(3),
        "seeds_side_by_side": regret_loops(3),
        "robust_penalty_against_ball": robust_statistics(3),
    }
    print(json.dumps(record, indent=1))
    write(RECORD, record)


if __name__ == "__main__":
    main()
