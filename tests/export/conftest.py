"""Two exported ResNets, made once: of CLIP, with both sides its own, and of DINO."""

from pathlib import Path
from typing import NamedTuple

import pytest

from kdlib import Experiment, RunConfig
from kdlib.export import ExportedStudent, export


class Exported(NamedTuple):
    experiment: Experiment
    folder: Path
    student: ExportedStudent


def _exported(small_shapes, place: Path, **fields) -> Exported:
    small = {"study": "small", "data_root": str(small_shapes), "batch_size": 16, "image_size": 32, "timed_calls": 5}
    small["method"] = "resnet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(place / "runs"))
        experiment = Experiment.open(RunConfig(**small | fields))
        experiment.train()
        experiment.evaluate()
        folder = export(experiment, place / "out" / "student")
    return Exported(experiment, folder, ExportedStudent.from_pretrained(folder))


@pytest.fixture(scope="session")
def clip(small_shapes, tmp_path_factory) -> Exported:
    """Of CLIP, with a text side; trained for 1 and 2 epochs."""
    own = {"objective": "feature_regression+anchor_kl", "lr_peak": 2e-3, "epochs": [1, 2], "text_side": "transformer"}
    return _exported(small_shapes, tmp_path_factory.mktemp("clip"), teacher="clip", dataset="coco", **own)


@pytest.fixture(scope="session")
def dino(small_shapes, tmp_path_factory) -> Exported:
    """Of DINO, which reads no text."""
    return _exported(small_shapes, tmp_path_factory.mktemp("dino"), teacher="dino", dataset="tinyimagenet", epochs=1)
