"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_its_links_into_the_repository_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_it_names_no_method_that_does_not_exist():
    from polopt.registry import list_agents

    table = README.partition("## Methods")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \[([^\]]+)\]\([^)]+\) \(\[code\]\(([^)]+)\)\)", table, re.MULTILINE)
    assert len(rows) == table.count("\n| [")
    there = {name: module.removeprefix("polopt.").replace(".", "/") + ".py" for name, module in list_agents().items()}
    assert {name: path for name, path in rows if there.get(name) != path} == {}


def test_its_example_runs(tmp_path: Path):
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    short = example.replace("1_000_000", "4_096").replace("n_eval_episodes=10", "n_eval_episodes=1")
    assert short.count("4_096") == short.count("n_eval_episodes=1)") == 1
    command = [sys.executable, "-P", "-c", short]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("ppo_cheetah*")]
