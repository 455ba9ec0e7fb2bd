"""The measurements, on a machine that need not be fast: every number that the plan adds up is there and is a time."""

import math
import time
from itertools import count

import pytest

from kdlib.notebook import worker
from kdlib.study import calibrate, forecast
from kdlib.study.file import ExperimentSpec


@pytest.fixture
def work_of(small_run):
    def make(teacher: str, method: str) -> forecast.Work:
        config = small_run(teacher, method=method)
        spec = ExperimentSpec(notebook=f"{config.teacher}_{config.dataset}", config=config)
        return forecast.works_of([spec])[0][0]

    return make


@pytest.mark.parametrize(
    ("kind", "teacher", "method"),
    [("student", "clip", "attention"), ("student", "dino", "resnet"), ("exam", "clip", "projection"),
     ("exam", "dino", "projection"), ("teacher", "clip", "projection"), ("pixels", "dino", "resnet")],
)  # fmt: skip
def test_calibrate__each_measurement_gives_what_the_plan_adds_up(
    kind, teacher, method, work_of, small_shapes, tmp_path
):
    needed = {
        "student": {"once", "step", "checkpoint", "bytes", "image", "call", "singly"},
        "exam": {"once", "score", "write"},
        "teacher": {"image", "call"},
        "pixels": {"image"},
    }
    job = {"folder": str(tmp_path), "drawn": str(small_shapes)}
    rate = calibrate.MEASUREMENTS[kind](work_of(teacher, method), job)["rate"]
    assert set(rate) == needed[kind]
    assert all(math.isfinite(seconds) and seconds >= 0 for seconds in rate.values())


def test_calibrate__a_teacher_that_is_not_here_is_one_layer_of_its_size_times_its_layers(work_of, monkeypatch):
    monkeypatch.setattr(calibrate, "layer_seconds", lambda work, width, heads, tokens: width * tokens / 1e6)
    rate = calibrate.published(work_of("clip", "projection"))
    image, text = 12 * 768 * 64 / 1e6, 12 * 512 * 39 / 1e6
    assert rate == pytest.approx({"image": image + 5 * text, "call": 33 * (image + text)})


def test_calibrate__an_exam_grows_as_its_parts_do(work_of, monkeypatch, tmp_path):
    """Ten times the images on both sides: a hundred times the pairs, ten times the rest."""
    exam = type("Exam", (), {"has_text": True, "on": "test", "tau": 1.0})()
    exam.scored, exam.teacher = type("Split", (), {"owner": None})(), {"test": {}}
    monkeypatch.setattr(calibrate, "timed", lambda call: 1.0)  # fidelity, then retrieval: 2 of 5 seconds
    whole = calibrate._at_full_size(exam, {"test": {"image": 0, "text": 0}}, 5.0, {"test": 10.0, "fit": 10.0})
    assert whole == 2 * 100 + 3 * 10


def test_calibrate__a_measurement_that_fails_says_why_and_the_others_go_on(work_of, monkeypatch):
    """The whole of it: notebook, processes and all."""
    good, bad = work_of("dino", "projection"), work_of("dino", "attention")
    bad = forecast.Work(**vars(bad) | {"width": 130})  # which eight heads do not divide
    rates = calibrate.measure([good, bad], workers=2)
    assert "8 heads do not divide" in rates[bad.keys["student"]]["problem"]
    assert all("problem" not in rates[key] for key in good.keys.values())
    assert 0 < rates[good.keys["experiment"]]["fixed"] < rates["calibration"]["seconds"]
    assert rates[good.keys["teacher"]]["once"] > 0
    experiments = forecast.experiment_seconds([good, bad], rates)
    assert experiments[good.spec.name]["seconds"] > 0 and experiments[bad.spec.name]["seconds"] is None


def test_calibrate__an_interruption_leaves_nothing_behind(work_of, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sleeper.py").write_text("import time\n\ntime.sleep(600)\n")
    running, turns = [], count()

    def run(steps):
        """The first measurement is interrupted while the second one's job runs."""
        if next(turns):
            return worker.run_job({"module": "sleeper", "threads": 1, "memory_bytes": 0, "log": str(tmp_path / "log")})
        while not worker._running:
            time.sleep(0.05)
        running.extend(worker._running)
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        calibrate.measure([work_of("dino", "projection")], workers=2)
    assert running and all(process.poll() is not None for process in running)
    assert not list((tmp_path / "runs").glob("calibration-*"))
