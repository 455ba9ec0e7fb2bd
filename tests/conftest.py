from pathlib import Path

import pytest

from kdlib.config import RunConfig
from kdlib.data import shapes

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def own_runs_and_reports(tmp_path, monkeypatch):
    """No test reads or writes the runs and reports of the checkout."""
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "reports"))


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory) -> Path:
    """The embedded data, small: 20 classes x (8 + 3) images, 40 + 20 scenes."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return shapes.ensure(shapes.ShapesSpec(0, 8, 3, 40, 20), root=root)


@pytest.fixture
def small_run(small_shapes):
    """``small_run('clip', method='cbam')``: the configuration of a run of seconds."""

    def make(teacher: str = "clip", **fields) -> RunConfig:
        dataset = "coco" if teacher in ("clip", "blip") else "tinyimagenet"
        given = {
            "study": "test",
            "batch_size": 16,
            "epochs": 2,
            "image_size": 32,
            "data_root": str(small_shapes),
            "timed_calls": 5,
        }
        return RunConfig(teacher=teacher, dataset=dataset, **given | fields)

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real samples beside the checkout; tests that need it skip where it is not."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the real samples in {SHARED}, which only the developers' machines have")
    return SHARED
