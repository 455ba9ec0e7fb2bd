"""Fixtures of all rooms: own roots, small synthetic data, the configuration of a run of seconds."""

import os
import tempfile
from pathlib import Path

import pytest

from kdlib.config import RunConfig

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in the kernels and commands that tests start
os.environ |= dict.fromkeys(("KDLIB_RUNS", "KDLIB_REPORTS"), tempfile.mkdtemp())  # of module fixtures
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_runs_and_reports(tmp_path, monkeypatch):
    """No test reads or writes the runs and reports of the checkout."""
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "reports"))


@pytest.fixture(scope="session")
def _features(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def shared_features(_features, tmp_path, own_runs_and_reports) -> None:
    """Features are built once for all tests that ask for this, as for the runs of one checkout."""
    (tmp_path / "runs").mkdir()
    for name in ("features", "cache"):
        (_features / name).mkdir(exist_ok=True)
        (tmp_path / "runs" / name).symlink_to(_features / name)


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory) -> Path:
    """The synthetic data, small: 20 classes x (8 + 3) images, 40 + 20 scenes."""
    from kdlib.data import shapes

    root = tmp_path_factory.mktemp("data") / "shapes"
    return shapes.ensure(shapes.ShapesSpec(0, 8, 3, 40, 20), root=root)


@pytest.fixture
def small_run(small_shapes):
    """``small_run('clip', method='cbam')``: the configuration of a run of seconds."""

    def make(teacher: str = "clip", **fields) -> RunConfig:
        dataset = "coco" if teacher in ("clip", "blip") else "tinyimagenet"
        small = {"study": "test", "batch_size": 16, "epochs": 2, "image_size": 32, "timed_calls": 5}
        return RunConfig(**{"teacher": teacher, "dataset": dataset, "data_root": str(small_shapes)} | small | fields)

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples beside the checkout; tests that need it skip where it is not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real samples that only the developers' machines have")
    return SHARED
