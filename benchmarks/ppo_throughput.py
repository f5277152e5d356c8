"""PPO end to end, environment steps per second: polopt (eager and compiled) beside stable-baselines3, in turn.

    python benchmarks/ppo_throughput.py                # the whole table
    python benchmarks/ppo_throughput.py --cases small --envs Hopper-v5 --rounds 5

Cases: ``small`` is stable-baselines3's default (1 env x 2048 steps, minibatch 64, 10 epochs, one thread each);
``large`` is 64 envs x 64 steps, minibatch 1024, 4 epochs, two threads each. Both train for real from the same seed with
2 x 64 tanh networks. In each round every contender runs a few whole iterations; the figure of a round is steps over
CPU time for one thread (fair on a machine that others use too), over wall time for two. Ratios are taken within a round,
and their median is quoted.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "small": dict(num_envs=1, n_steps=2048, batch_size=64, n_epochs=10, threads=1, iterations=2),
    "large": dict(num_envs=64, n_steps=64, batch_size=1024, n_epochs=4, threads=2, iterations=4),
}
RECORD = Path(__file__).parent / "records" / "ppo_throughput.json"


def contender(name: str, env: str, case: dict[str, Any]) -> Any:
    """A model that has already trained for two iterations, so that nothing is left to set up."""
    hyper = {k: case[k] for k in ("n_steps", "batch_size", "n_epochs")}
    if name == "sb3":
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env

        model = PPO("MlpPolicy", make_vec_env(env, case["num_envs"], seed=0), seed=0, device="cpu", **hyper)
    else:
        import polopt

        model = polopt.PPO(
            "MlpPolicy", env, seed=0, num_envs=case["num_envs"], threads=case["threads"],
            env_kwargs=dict(threads=case["threads"]), compile=name == "compiled", **hyper,
        )  # fmt: skip
    return model.learn(2 * case["num_envs"] * case["n_steps"])


def worker(name: str, env: str, case: dict[str, Any]) -> None:
    """Serve rounds: a line on stdin runs one, its (wall, CPU) seconds go to stdout."""
    import torch

    torch.set_num_threads(case["threads"])
    model = contender(name, env, case)
    print(json.dumps("ready"), flush=True)
    steps = case["iterations"] * case["num_envs"] * case["n_steps"]
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        model.learn(steps, reset_num_timesteps=False)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(dict(wall=steps / wall, cpu=steps / cpu, peak_mb=peak)), flush=True)


def measure(env: str, name: str, case: dict[str, Any], rounds: int) -> dict[str, Any]:
    contenders = ("eager", "compiled", "sb3")
    processes = {}
    for each in contenders:
        spec = json.dumps([each, env, case])
        processes[each] = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--worker", spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if json.loads(processes[each].stdout.readline()) != "ready":
            raise RuntimeError(f"{each} did not start")
    clock = "cpu" if case["threads"] == 1 else "wall"
    figures: dict[str, list[dict[str, float]]] = {each: [] for each in contenders}
    for _ in range(rounds):
        for each, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            figures[each].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    ratios = {
        each: [a[clock] / b[clock] for a, b in zip(figures[each], figures["sb3"], strict=True)]
        for each in contenders[:2]
    }
    return dict(
        env=env, case=name, clock=clock, figures=figures,
        steps_per_second={k: statistics.median(f[clock] for f in v) for k, v in figures.items()},
        ratio={k: statistics.median(v) for k, v in ratios.items()},
        ratio_range={k: [min(v), max(v)] for k, v in ratios.items()},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=["HalfCheetah-v5", "Hopper-v5"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(*json.loads(args.worker))
    rows = []
    print(
        f"{'env':16}{'case':8}{'clock':6}{'sb3':>9}{'eager':>9}{'compiled':>10}{'eager/sb3':>12}{'compiled/sb3':>14}{'peak MB':>9}"
    )
    for case in args.cases:
        for env in args.envs:
            row = measure(env, case, CASES[case], args.rounds)
            rows.append(row)
            s, r = row["steps_per_second"], row["ratio"]
            peak = max(f["peak_mb"] for f in row["figures"]["eager"])
            print(
                f"{env:16}{case:8}{row['clock']:6}{s['sb3']:9.0f}{s['eager']:9.0f}{s['compiled']:10.0f}"
                f"{r['eager']:11.2f}x{r['compiled']:13.2f}x{peak:9.0f}",
                flush=True,
            )
    from recording import made_with, write  # not above: the workers' memory is measured

    about = made_with("torch", "numpy", "gymnasium", "mujoco", "stable-baselines3")
    write(args.record, dict(benchmark="ppo_throughput", **about, cases=CASES, rows=rows))


if __name__ == "__main__":
    main()
