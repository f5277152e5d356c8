"""On what a run was made."""

import shutil
import subprocess

import pytest

from polopt import manifest


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_commit_says_whether_the_code_differs_from_it(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    code = tmp_path / "polopt" / "manifest.py"
    code.parent.mkdir()
    code.write_text("one")
    monkeypatch.setattr(manifest, "__file__", str(code))
    assert manifest.commit() is None
    git("init")
    assert manifest.commit() is None  # nothing is committed yet
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "HEAD")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "cell.json").write_text("{}")  # what a benchmark writes is not the code
    assert manifest.commit() == head == manifest.manifest("cpu", 1)["commit"]
    code.write_text("two")
    assert manifest.commit() == f"{head}+"
