"""PRDC's updates beside those with the official k-d tree, and beside TD3+BC's, from the first one on.

    python benchmarks/offline_throughput.py                                # 1e6 rows of both kinds, 1000 updates
    python benchmarks/offline_throughput.py --rows 20000 --updates 50 --official 20

Data: HalfCheetah-v5 transitions, of 250 random policies (``sparse``) or of one with noise 0.1 (``dense``), states
standardised. Batch 256, 2 x 256 ReLU, beta 2. ``tree`` is the official procedure: scipy's KDTree over [beta s, a], asked with
all cores (``workers=-1``) once an actor step; everything else is ours, so that only the search differs. Figures:

- updates a second from the untrained policy on, wall clock, each contender in turn, and the CPU time of one (median of
  pairs, of which one moves the actor); of PRDC also the share certified;
- the search alone, ms a batch, both on the same queries of a trained PRDC;
- CPU of an update on batches of certified rows only, of which PRDC's policy after its updates needs no search, of all three;
- what is paid once: seconds to list the neighbours (CPU; kept in the cache afterwards), and to build the tree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from recording import RECORDS, made_with, write

OBS, ACT, WORLDS, BATCH = 17, 6, 250, 256
RECORD = RECORDS / "offline_throughput.json"


def transitions(kind: str, rows: int) -> Any:
    """A dataset of random policies' steps."""
    import polopt
    from polopt.dataset import Collector

    world = Collector(polopt.make_env("HalfCheetah-v5", num_envs=WORLDS, seed=0, threads=1))
    rng = np.random.default_rng(0)
    policies = WORLDS if kind == "sparse" else 1
    first = rng.normal(size=(policies, OBS, 32)).astype(np.float32) / 4
    last = rng.normal(size=(policies, 32, ACT)).astype(np.float32) / 3
    obs = world.reset_host(0)
    for _ in range(-(-rows // WORLDS)):
        action = np.tanh(np.tanh(obs[:, None].astype(np.float32) @ first) @ last)[:, 0]
        action = (action + 0.1 * rng.normal(size=action.shape)).clip(-1, 1).astype(np.float32)
        obs = world.step_host(action).obs
    return world.dataset(f"{kind}, {rows} rows")[:rows]


class Tree:
    """The official search, under the name of ours."""

    def __init__(self, index: Any) -> None:
        from scipy.spatial import KDTree

        self.beta, self.states = index.beta, index.states
        self.tree = KDTree(np.concatenate([self.beta * index.states, index.actions], 1))

    def nearest(self, row: Any, action: Any) -> Any:
        import torch

        query = np.concatenate([self.beta * self.states[row.numpy()], action.numpy()], 1)
        found = self.tree.query(query, k=1, workers=-1)[1]
        return torch.from_numpy(found), torch.zeros(len(found), dtype=torch.bool)


def model_of(name: str, data: Any, compiled: bool, **kwargs: Any) -> Any:
    import polopt

    model = getattr(polopt, name)(seed=0, compile=compiled, **kwargs)
    return model.learn_offline(data, 0)


def timed(model: Any, updates: int) -> dict[str, Any]:
    """Updates a second, and how much of the queries was certified."""
    seconds, cpu, certified = [], [], []
    for _ in range(updates):
        started, clock = time.perf_counter(), time.process_time()
        log = model.train_steps(1)
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - clock)
        if "certified" in log:
            certified.append(float(log["certified"]))
    out = dict(updates=updates, seconds=sum(seconds), per_second=updates / sum(seconds), cpu_seconds=sum(cpu))
    pairs = [a + b for a, b in zip(cpu[0::2], cpu[1::2], strict=True)]  # a critic's step, and one with the actor's
    out["cpu_ms"] = 500 * statistics.median(pairs)
    if certified:
        out |= dict(certified=statistics.mean(certified), certified_batches=statistics.mean(c == 1 for c in certified))
    return out


def certified_batch(prdc: Any) -> Any:
    """Random rows whose lists answer for the present policy, all of them."""
    import torch

    b = prdc.memory.sample(4 * BATCH, prdc.generator)
    with torch.no_grad():
        _, certified = prdc.index.nearest(b.index, prdc.action(b.obs))
    b = b.take(certified.nonzero().squeeze(1)[:BATCH])
    return b if len(b) == BATCH else None


def on_certified(bc: Any, prdc: Any, official: Any, pairs: int) -> dict[str, Any] | None:
    """CPU ms of an update of each, in turn, on the same batches in which no row of PRDC's needs a search.

    The actor moves in the second step of a pair, so what holds when the batches are drawn holds when they are used. All
    three go on from PRDC's parameters.
    """
    official.set_parameters({k: v for k, v in prdc.get_parameters().items() if k in official.nets}, exact_match=False)
    times: dict[str, list[float]] = {"td3_bc": [], "prdc": [], "tree": []}
    for _ in range(pairs):
        batches = [certified_batch(prdc), certified_batch(prdc)]
        if None in batches:
            return None
        for name, model in (("td3_bc", bc), ("prdc", prdc), ("tree", official)):
            own, left = model.memory.sample, iter(batches)
            model.memory.sample = lambda *_, left=left: next(left)
            clock = time.process_time()
            log = model.train_steps(2)
            times[name].append(500 * (time.process_time() - clock))
            model.memory.sample = own
            if name == "prdc" and float(log["certified"]) != 1:
                raise RuntimeError("a batch that was certified when it was drawn was not when it was used")
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))
    return {name: statistics.median(ms) for name, ms in times.items()} | {
        "pairs": pairs, "tree / prdc": ratio("tree", "prdc"), "prdc / td3_bc": ratio("prdc", "td3_bc"),
    }  # fmt: skip


def measure(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    data = transitions(kind, args.rows)
    row: dict[str, Any] = dict(kind=kind, rows=args.rows, alpha=args.alpha, reach=args.reach)
    started = time.process_time()
    ours = dict(alpha=args.alpha, reach=args.reach)
    prdc = model_of("PRDC", data, args.compile, **ours)
    row["lists_cpu_seconds"] = time.process_time() - started
    listed = np.diff(prdc.index.neighbours.starts)
    row["listed_per_row"] = dict(mean=float(listed.mean()), full=float((listed == 64).mean()))
    started = time.perf_counter()
    tree = Tree(prdc.index)
    row["tree_seconds"] = time.perf_counter() - started
    bc = model_of("TD3BC", data, args.compile, alpha=args.alpha)
    official = model_of("PRDC", data, args.compile, **ours)
    official.index = tree
    for model in (bc, prdc, official):  # compile, and warm the caches, on steps that do not count
        state = {k: {n: x.clone() for n, x in v.state_dict().items()} for k, v in model.nets.items()}
        model.train_steps(4 if args.compile else 2)
        model.set_parameters(state, exact_match=False)
    row["td3_bc"], row["prdc"] = timed(bc, args.updates), timed(prdc, args.updates)
    row["tree"] = timed(official, args.official) | {"certified": None}
    row["prdc_same_updates_as_tree"] = timed(model_of("PRDC", data, args.compile, **ours), args.official)
    searches = []
    for _ in range(args.batches):  # of the policy as it is after those updates
        b = prdc.memory.sample(BATCH, prdc.generator)
        with torch.no_grad():
            u = prdc.action(b.obs)
        times = []
        for index in (prdc.index, tree):
            started = time.perf_counter()
            _, certified = index.nearest(b.index, u)
            times.append(1e3 * (time.perf_counter() - started))
            if index is prdc.index:
                share = float(certified.float().mean())
        searches.append(dict(prdc=times[0], tree=times[1], certified=share))
    row["searches_ms"] = searches
    whole = [s for s in searches if s["certified"] == 1]
    row["certified_cpu_ms"] = certified = on_certified(bc, prdc, official, args.batches) or {}
    row["ratios"] = {
        "prdc / tree, the same first updates": row["prdc_same_updates_as_tree"]["per_second"]
        / row["tree"]["per_second"],
        "tree / prdc, certified batches, CPU of an update": certified.get("tree / prdc"),
        "prdc / td3_bc, certified batches, CPU of an update": certified.get("prdc / td3_bc"),
        "tree / prdc, certified searches": statistics.median(s["tree"] / s["prdc"] for s in whole) if whole else None,
        "tree / prdc, all searches": statistics.median(s["tree"] / s["prdc"] for s in searches),
    }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=["sparse", "dense"], choices=["sparse", "dense"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=1000, help="of ours, even")
    parser.add_argument("--official", type=int, default=1000, help="updates with the tree, even: up to a second each")
    parser.add_argument("--batches", type=int, default=20, help="searches timed by themselves")
    parser.add_argument("--alpha", type=float, default=2.5, help="40 drives the policy far from the data")
    parser.add_argument(
        "--reach", type=float, default=1.5, help="PRDC's; a million rows: 150, 490, 1060 CPU s to list at 1, 1.5, 2"
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    rows = []
    for kind in args.kinds:
        rows.append(row := measure(kind, args))
        print(f"{kind}: lists {row['lists_cpu_seconds']:.0f} CPU s, tree {row['tree_seconds']:.1f} s", flush=True)
        for name in ("td3_bc", "prdc", "prdc_same_updates_as_tree", "tree"):
            print(f"    {name:28} {json.dumps(row[name])}", flush=True)
        for name, value in row["ratios"].items():
            print(f"    {name:44} {'-' if value is None else f'{value:.2f}'}", flush=True)
    about = made_with("torch", "numpy", "scipy") | dict(threads=1, clock="wall", compiled=args.compile)
    record = dict(benchmark="offline_throughput", **about, rows=rows)
    write(args.record, record)


if __name__ == "__main__":
    main()
