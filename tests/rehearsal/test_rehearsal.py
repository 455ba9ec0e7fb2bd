"""The rehearsal in small: from an empty cache through a hub that dies to a finished report, as a user types it."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path[:0] = [str(Path(__file__).parents[1])]
from rehearsal import checkpoints, command, faults  # noqa: E402
from rehearsal.stage import staged  # noqa: E402

FEW = {"seeds": [0], "epochs": [1], "methods": ["projection", "resnet"], "variants": {}, "by_method": {}}
SMALL = {"convnet": "narrow", "width": 16, "image_size": 32, "batch_size": 16, "timed_calls": 5}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Small checkpoints of two teachers, drawn images, and both data sets downloaded from the second address."""
    with staged(tmp_path_factory.mktemp("rehearsal"), full=False, families=("clip", "dino")) as made:
        for name in ("tinyimagenet", "coco"):
            done = made.kdlib("data", "get", name)
            assert done.code == 0, done.output
            assert "Connection refused; trying http" in done.output and "$KDLIB_ARCHIVES" in done.output
        yield made


def study(stage) -> Path:
    return stage.study("small", notebooks={"clip_coco": None, "dino_tinyimagenet": None}, parameters=SMALL, **FEW)


def test_rehearsal__a_hub_that_dies_is_named_and_the_next_run_ends_with_the_report(stage):
    file = study(stage)
    faults.dead_in_a_file(stage, "clip")
    broken = stage.kdlib("run", file, "--workers", "2")
    assert broken.code != 0 and "Traceback" not in broken.output
    assert "openai/clip-vit-base-patch32" in broken.output and "run again" in broken.output
    assert not list((stage.runs / "small").rglob("result-*.json"))
    stage.publish("clip")

    done = stage.kdlib("run", file, "--workers", "2")
    assert done.code == 0, done.output[-3000:]
    assert "4 of 4 experiments are done" in done.output
    assert (stage.folder / "reports" / "small" / "index.html").exists()
    rows = pd.read_csv(stage.folder / "reports" / "small" / "results.csv")
    assert rows.outcome.tolist() == ["ok"] * 4 and not rows.untrained_teacher.any()
    assert rows.groupby("dataset").left_out_images.max().to_dict() == {"coco": 1, "tinyimagenet": 0}
    assert set(rows.teacher_source) == {checkpoints.IDS["clip"], checkpoints.IDS["dino"]}
    assert not [path for _, path in stage.hub.requests if path.endswith(".bin")]  # safetensors were there
    result = json.loads(next((stage.runs / "small").rglob("clip_coco/projection/seed0/result-*.json")).read_text())
    assert [twin.split("/")[0] for _, twin in result["data"]["fit"]["left_out"]] == ["val2017"]


def test_rehearsal__the_archives_pass_the_check_of_the_data(stage):
    """But for the copy, which is what a run without on_overlap: drop refuses."""
    sound = stage.kdlib("data", "check", "tinyimagenet", stage.runs / "data")
    assert sound.code == 0, sound.output
    copies = stage.kdlib("data", "check", "coco", stage.runs / "data")
    assert copies.code == 1 and "1 found: Take one of the two out, or run with on_overlap: drop" in copies.output
    assert "are the same image; both are used" in copies.output


def test_command__its_memory_is_that_of_all_its_processes(tmp_path):
    busy = "while time.process_time() < 1: pass"
    child = f"import time; block = bytearray(80_000_000)\n{busy}\ntime.sleep(3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    done = command.run([sys.executable, "-c", parent], {}, tmp_path, tmp_path / "log")
    assert done.code == 0 and done.memory > 80_000_000 and done.seconds >= 3 and done.cpu_seconds >= 1
