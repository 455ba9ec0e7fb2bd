"""An exported student, made once for the tests of its files and for those of the hub that has them."""

import shutil
from pathlib import Path

import pytest

from kdlib.export import choose, export


@pytest.fixture(scope="session")
def exported(finished_runs, tmp_path_factory):
    """A copy of the finished runs, and in it the exported student of DINO's ResNet with its twins."""
    runs = tmp_path_factory.mktemp("exported") / "runs"
    shutil.copytree(finished_runs, runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(runs))
        export(choose(["dino", "resnet", "2"]), runs / "taken" / "away", int8=True)
    return runs


@pytest.fixture
def taken(exported, own_runs_and_reports, monkeypatch) -> Path:
    """The folder of the exported student."""
    monkeypatch.setenv("KDLIB_RUNS", str(exported))
    return exported / "taken" / "away"
