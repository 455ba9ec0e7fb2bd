"""What is said of a study's experiments, from the files of their runs."""

import os
import socket

import pytest
import small_study

from kdlib import status
from kdlib.study import load
from kdlib.utils import runs_root, write_atomic, write_json

METHODS = ["projection", "bottleneck", "attention", "cbam", "resnet", "densenet"]


@pytest.fixture
def studied(tmp_path, monkeypatch):
    """A study with its index, and the folder of each method in another state."""
    small_study.replace_science(monkeypatch.setattr)
    study = load(small_study.write(tmp_path / "study", methods=METHODS))
    jobs = {job.config.method: job for job in map(small_study.job_of, study.experiments())}
    folders = {method: job.folder for method, job in jobs.items()}
    rows = [
        {"folder": f"clip_coco/{name}/seed0-00000000", "config": jobs[name].config.model_dump()} for name in METHODS
    ]
    write_json(runs_root() / "small/index.json", {"experiments": rows})
    for method, epochs in (("projection", [1, 2]), ("bottleneck", [1]), ("densenet", [1, 2])):
        small_study.finished(folders[method], epochs)
    (folders["densenet"] / "notebook.ipynb").unlink()
    write_atomic(folders["bottleneck"] / "checkpoints/epoch-0001.pt", "")
    failed = {"outcome": "failed", "error": "ValueError: no", "limit_gb": 2.0, "host": "a"}
    write_json(folders["attention"] / "outcome.json", failed)
    write_json(folders["cbam"] / "outcome.json", failed | {"outcome": "out of memory", "error": "it held more"})
    here = {"host": socket.gethostname(), "pid": os.getpid(), "since": "12:00", "epoch": 1, "of": 2}
    write_json(folders["resnet"] / "running.json", here)
    return study


def test_lines__say_each_state_with_its_reason_and_count_them(studied):
    lines = list(status.lines(studied))
    said = {line[15:].split()[1].rstrip(":"): (line[:14].strip(), line.partition(": ")[2]) for line in lines[:-1]}
    attention = runs_root() / "small/clip_coco/attention/seed0-00000000"
    assert said["projection"] == ("done", "")
    assert said["bottleneck"] == ("to do", "2 epochs are not scored yet; epoch 1 is there")
    assert said["densenet"] == ("to do", "its notebook was not executed to the end")
    assert said["attention"] == ("failed", f"ValueError: no (limit 2.0 GB); see {attention}")
    assert said["cbam"][0] == "out of memory" and "it held more (limit 2.0 GB)" in said["cbam"][1]
    assert said["resnet"] == ("running", f"epoch 1 of 2, on {socket.gethostname()} (process {os.getpid()}) since 12:00")
    assert lines[-1] == "1 done, 2 to do, 1 failed, 1 out of memory, 1 running"


def test_lines__without_data_or_teacher_go_by_the_files_and_say_so(studied, monkeypatch):
    def missing(planned):
        raise FileNotFoundError("no teacher here")

    monkeypatch.setattr(status, "job_of", missing)
    lines = list(status.lines(studied))
    assert lines[-1] == "Not checked against data, teachers and code: no teacher here"
    assert lines[-2] == "1 done, 2 to do, 1 failed, 1 out of memory, 1 running"
    assert any(line.startswith("to do          clip_coco bottleneck: 2 epochs are not scored") for line in lines)


def test_lines__a_training_that_has_another_key_now_says_that_something_changed(studied, monkeypatch):
    def moved(planned):
        job = small_study.job_of(planned)
        return job._replace(folder=job.folder.with_name("seed0-11111111"), why="not run yet")

    monkeypatch.setattr(status, "job_of", moved)
    assert "to do          clip_coco projection: its parameters, data, teacher or code changed" in list(
        status.lines(studied)
    )


def test_lines__of_a_study_that_was_never_run_open_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "job_of", lambda planned: pytest.fail("nothing may be opened"))
    (line,) = status.lines(load(small_study.write(tmp_path, methods=METHODS)))
    assert line == "The study 'small' has not been run here: 6 experiments are to do."


def test_state_of__a_process_that_is_gone_does_not_run(tmp_path):
    running = {"host": socket.gethostname(), "pid": 2**22 + 1, "since": "12:00", "epoch": 1, "of": 2}
    folder = runs_root() / "small/a/b/c"
    write_json(folder / "running.json", running)
    assert status.state_of(folder, "not run yet") == ("to do", "not run yet")
    write_json(folder / "running.json", running | {"host": "another"})
    assert status.state_of(folder, "not run yet")[0] == "running"


def test_duration__is_in_days_and_hours():
    assert [status.duration(seconds) for seconds in (89.6, 386 * 3600)] == ["0:01:30", "16 days, 2:00:00"]
