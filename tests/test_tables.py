"""Tables of finished runs: a row a run and budget, a row a score, also of what failed."""

import os
import re
import socket
from pathlib import Path

import made_runs
import numpy as np
import pandas as pd
import pytest

import kdlib
from kdlib import tables
from kdlib.config import RunConfig
from kdlib.utils import read_json, runs_root, write_json

DOCS = Path(__file__).parents[1] / "docs"


def planned(method: str, seed: int = 0, note: str = "", **record) -> dict:
    """The entry of a run without a result, and the engine's note in its folder."""
    config = RunConfig(study="made", teacher="clip", dataset="coco", method=method, seed=seed, epochs=[5, 10])
    folder = f"clip_coco/{config.folder}/seed{seed}-1a2b3c4d"
    if note:
        write_json(runs_root() / "made" / folder / f"{note}.json", record)
    return {"folder": folder, "notebook": "clip_coco", "config": config.model_dump()}


def test_runs__a_row_a_run_and_budget():
    made_runs.index([made_runs.run("clip", "cbam", objective=["logit_matching", "attention_transfer"])])
    few, many = kdlib.runs("made").to_dict("records")
    assert (few["teacher"], few["dataset"], few["student"], few["method"]) == ("CLIP", "COCO", "CBAM", "cbam")
    for name, values in {"epochs": (5, 10), "train_s": (10, 20), "images_seen": (500, 1000)}.items():
        assert (few[name], many[name]) == values
    assert (many["image_ms"], many["total_min"]) == (100 / 32, pytest.approx(1 + 10 / 30))
    assert many["objective"] == "logit_matching+attention_transfer"
    assert (many["outcome"], many["checkpoint"], many["data"], many["current"]) == ("ok", "toy", "synthetic", True)


def test_runs__what_failed_has_a_row():
    alive = {"host": socket.gethostname(), "pid": os.getpid(), "since": "now", "epoch": 1, "of": 10}
    made_runs.index([
        made_runs.run(),
        planned("bottleneck"),
        planned("attention", note="outcome", outcome="out of memory", error="more than 2 GB"),
        planned("cbam", note="outcome", outcome="failed", error="ValueError: no"),
        planned("resnet", note="running", **alive),
        planned("densenet", note="running", **alive | {"pid": 2**22 + 1}),
    ])  # fmt: skip
    runs = kdlib.runs("made").drop_duplicates("method").set_index("method")
    assert runs.outcome.to_dict() == {
        "projection": "ok", "bottleneck": "not run", "attention": "out of memory", "cbam": "failed",
        "resnet": "running", "densenet": "not run",
    }  # fmt: skip
    assert runs.error["cbam"] == "ValueError: no"
    assert np.isnan(runs.student_mb["cbam"]) and runs.failed_checks["cbam"] == ""
    assert set(kdlib.results("made").method) == {"projection"}
    made_runs.index([planned("cbam")])
    assert set(kdlib.runs("made")) == {"method", *runs} and kdlib.results("made").empty


def test_runs__those_of_other_code_are_marked():
    made_runs.run(key="old", values=(0.1, 0.1))
    made_runs.index([made_runs.run(key="new")])
    assert set(kdlib.runs("made").key) == {"00000new"}
    assert kdlib.runs("made", all=True).groupby("key").current.all().to_dict() == {"00000new": True, "00000old": False}
    assert len(kdlib.results("made", all=True)) == 2 * len(kdlib.results("made"))
    (runs_root() / "made" / "index.json").unlink()  # as below by_hand: all that is there counts
    assert set(kdlib.runs("made").key) == {"00000new", "00000old"} and kdlib.runs("made").current.all()


def test_runs__from_anywhere(tmp_path):
    made_runs.index(made_runs.grid(("dino",)))
    here, moved = kdlib.results("made"), runs_root().rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="Studies with runs there: none"):
        kdlib.runs("made")
    there = kdlib.results("made", path=moved)
    pd.testing.assert_frame_equal(here.drop(columns="path"), there.drop(columns="path"))
    with pytest.raises(FileNotFoundError, match="Studies with runs there: made"):
        kdlib.results("other", path=moved)


def test_runs__a_result_that_changed_is_read_again():
    entry = made_runs.run()
    made_runs.index([entry])
    kdlib.runs("made")
    file = runs_root() / "made" / entry["folder"] / "result.json"
    write_json(file, read_json(file) | {"failed_checks": ["chance"]})
    os.utime(file, ns=(0, 10**18))
    assert set(kdlib.runs("made").failed_checks) == {"chance"}


def test_names__come_from_the_data_and_the_study():
    made_runs.index([
        made_runs.run("my.teachers:Small", "my.students:Tiny", dataset="folder"),
        made_runs.run("dino", "resnet", dataset="folder", variant="self_contained", role="self_contained"),
        made_runs.run("dino", "resnet", dataset="folder", variant="lr_1e-3"),
        made_runs.run("dino", "resnet", dataset="folder", role="supervised", config={"objective": "supervised"}),
    ])  # fmt: skip
    runs = kdlib.runs("made")
    assert set(runs.dataset) == {"birds"}
    assert list(runs.teacher.cat.categories) == ["DINO", "Small"]
    assert set(runs.student) == {"Tiny", "ResNet, self-contained", "ResNet, lr 1e-3", "ResNet, supervised"}


def test_results__controls_are_encoders_of_the_students_rows():
    made_runs.index([made_runs.run(values=(0.4, 0.45), dev=(0.3, 0.35))])
    scores = kdlib.results("made")
    primary = scores[scores.primary].pivot(index="encoder", columns="epochs", values="value")
    want = made_runs.CONTROLS | {"random_init": 0.05}
    assert primary[10].to_dict() == want | {"student": 0.45, "dev": 0.35}
    assert primary[5].to_dict() == want | {"student": 0.4, "dev": 0.3}
    assert set(scores.metric) == {"mean_recall", "in_batch@64"}
    assert set(scores[scores.primary].metric) == {"mean_recall"}
    row = scores[(scores.encoder == "student") & (scores.epochs == 10) & scores.primary].iloc[0]
    drawn = tables.replicates(row.path, "student", "mean_recall", 10)
    assert (row.low, row.high) == tuple(np.quantile(drawn, [0.025, 0.975]))
    assert tables.replicates(row.path, "random_init", "mean_recall", 5).mean() == pytest.approx(0.05, abs=1e-6)
    assert tables.replicates(row.path, "student", "cka", 10) is None  # it was not resampled


def test_results__the_supervised_baseline_is_an_encoder_of_the_same_network():
    made_runs.index(made_runs.grid(("clip",)))
    scores = kdlib.results("made")
    found = scores[(scores.encoder == "supervised") & scores.primary & (scores.epochs == 10)]
    assert found.set_index("student").value.to_dict() == {"ResNet": 0.15, "ResNet, self-contained": 0.15}
    order = ["Projection", "Bottleneck", "Attention", "CBAM", "ResNet", "DenseNet", "ResNet, self-contained"]
    assert scores.student.unique().tolist() == order  # the paper's
    assert set(found.path.map(lambda path: Path(path).parent.name)) == {"resnet+supervised"}
    assert not (scores.role == "supervised").any() and (kdlib.runs("made").role == "supervised").any()
    drawn = tables.replicates(found.path.iloc[0], "supervised", "mean_recall", 10)
    assert drawn.mean() == pytest.approx(0.15, abs=1e-6)


def test_results__a_supervised_run_alone_keeps_its_rows():
    made_runs.index([
        made_runs.run("clip", "resnet"),
        made_runs.run("clip", "resnet", (0.3,), variant="long", role="supervised", budgets=(120,)),
    ])  # fmt: skip
    scores = kdlib.results("made")
    assert set(scores[scores.epochs == 120].role) == {"supervised"}
    assert "supervised" not in set(scores.encoder)


def test_docs__name_every_column():
    made_runs.index([made_runs.run()])
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    missing = [name for name in [*kdlib.runs("made"), *kdlib.results("made")] if not re.search(rf"\b{name}\b", text)]
    assert missing == []
