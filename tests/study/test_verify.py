"""Nothing altered or lost passes ``kdlib verify``: each file of a finished experiment in turn."""

import json

import pytest

from kdlib.config import RunConfig
from kdlib.experiment import Experiment
from kdlib.files import RunDir, file_digest, read_json, seal, write_json
from kdlib.notebook.page import MADE_FROM
from kdlib.study import status, verify
from kdlib.study.file import StudyConfig, experiments


@pytest.fixture
def finished(small_shapes) -> tuple[StudyConfig, RunDir]:
    """A study of one experiment that is done, its notebook and page in name only, and its folder."""
    parameters = {"batch_size": 16, "timed_calls": 5, "data_root": str(small_shapes), "linear_probe": False}
    study = StudyConfig(
        study="s", title="t", notebooks={"clip_coco": {}}, methods=("projection",), epochs=(1,), seeds=(0,),
        parameters=parameters,
    )  # fmt: skip
    (spec,) = experiments(study)
    experiment = Experiment.open(RunConfig(**spec.config.model_dump()))
    history = experiment.train()
    result = experiment.finish(experiment.evaluate(), history)
    notebook = experiment.run.notebook_path(1)
    notebook.write_text("{}")
    record = {"result": result["digest"], "notebook": file_digest(notebook), "bytes": notebook.stat().st_size}
    write_json(experiment.run.published_path(1), record)
    spec.page.parent.mkdir(parents=True)
    spec.page.write_text(f"<html></html>\n{MADE_FROM}{file_digest(notebook)} -->\n")
    return study, experiment.run


def flip(path) -> None:
    """Turn a bit in the middle of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify__names_every_kind_of_file_that_was_altered(finished, tmp_path):
    study, run = finished
    found = verify.verify(study)
    assert found["problems"] == [] and (found["results"], found["recomputed"]) == (1, 1)
    assert read_json(tmp_path / "runs" / "s" / "verified.json")["when"]
    store = next((tmp_path / "runs" / "features").glob("*/image_pooled.npy"))
    files = {
        run.scores_path(1): "scores-0001.npz was altered",
        run.embeddings_path(1): "embeddings-0001.npz was altered",
        run.path / "untrained.npz": "untrained.npz was altered",
        run.checkpoints / "epoch-0001" / "model.safetensors": "checkpoint of epoch 1 is lost or damaged",
        run.notebook_path(1): "epoch-0001.ipynb was altered",
        run.result_path(1): "result-0001.json",
        store: "image_pooled.npy: altered or lost",
    }
    for path, words in files.items():
        whole = path.read_bytes()
        flip(path)
        (problem,) = verify.verify(study)["problems"][:1]
        assert words in problem, path
        path.write_bytes(whole)
    assert verify.verify(study)["problems"] == []


def test_verify__a_score_that_is_sealed_but_wrong_is_found_by_computing_it_again(finished):
    study, run = finished
    result = json.loads(run.result_path(1).read_text())
    result["scores"]["student"]["i2t_r@1"] += 0.1
    resealed = seal({name: value for name, value in result.items() if name != "digest"})
    write_json(run.result_path(1), resealed)
    published = read_json(run.published_path(1))
    write_json(run.published_path(1), published | {"result": resealed["digest"]})
    assert status.Inspector().state(experiments(study)[0]).state == "done"
    (problem,) = verify.verify(study)["problems"]
    assert "i2t_r@1 is" in problem and "from its embeddings" in problem
