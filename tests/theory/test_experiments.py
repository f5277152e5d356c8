"""Every experiment's findings hold, its figure is drawn, and the registry is the folder."""

import subprocess
import sys

import polopt.theory
import pytest
from polopt.theory.experiment import load_experiment


def test_the_folder_is_the_registry():
    names = polopt.theory.list_experiments()
    assert "exact_pg" in names
    assert names == sorted(names)
    with pytest.raises(ValueError, match="no theory experiment 'exact_gp'; did you mean 'exact_pg'"):
        load_experiment("exact_gp")


def test_the_wing_imports_without_torch_and_matplotlib():
    code = "import sys, polopt.theory; print(sorted({'torch', 'matplotlib', 'gymnasium'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("name", polopt.theory.list_experiments())
def test_the_claim_holds_and_is_drawn(name, tmp_path, capsys):
    experiment = polopt.theory.run(name, tmp_path)
    printed = capsys.readouterr().out
    assert "FAILS" not in printed
    assert experiment.holds
    assert all(finding.what in printed for finding in experiment.findings)
    assert 5_000 < (tmp_path / f"{name}.png").stat().st_size < 80_000
