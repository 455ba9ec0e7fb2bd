"""What a finished job means, and what a job receives; nothing is run."""

from types import SimpleNamespace

import pytest

from kdlib.study import engine, queue


@pytest.mark.parametrize(
    ("state", "report", "tries", "outcome"),
    [
        ("done", {"outcome": "ok"}, 0, "ok"),
        ("done", {"outcome": "kernel_died"}, 0, "ok"),  # it died after it had done everything
        ("resumable", {"outcome": "ok"}, 0, "error"),
        ("resumable", {"outcome": "kernel_died"}, 0, "again"),
        ("resumable", {"outcome": "kernel_died"}, queue.RESUMES, "kernel_died"),
        ("absent", {"outcome": "abandoned"}, queue.RESUMES, "again"),
        ("absent", {"outcome": "abandoned"}, queue.LEFT, "kernel_died"),
        ("absent", {"outcome": "error", "error": "ValueError: no"}, 0, "error"),
        ("absent", {"outcome": "error", "error": "OSError: [Errno 28] No space left on device"}, 0, "again"),
        ("absent", {"outcome": "out_of_memory", "error": "used 3 GB of 2"}, 0, "out_of_memory"),
    ],
)
def test_decide__what_lies_on_the_disk_first(state, report, tries, outcome):
    assert queue.decide(state, report, tries)[0] == outcome


@pytest.fixture
def received(monkeypatch):
    """The environments that jobs received."""
    got = []
    monkeypatch.setattr(engine, "run_job", lambda job: got.append(job.get("environment", {})) or {"outcome": "ok"})
    return got


def test_local__each_slot_has_a_gpu_of_its_own(monkeypatch, received):
    monkeypatch.setattr(engine, "gpus", lambda: ["3", "5"])
    local = engine.Local(2, None)
    for device in ("auto", "cuda", "cuda:1", "cpu"):
        local.submit({"name": "x", "device": device})
        while not local.ended(60):
            pass
    given = [environment.get("CUDA_VISIBLE_DEVICES") for environment in received]
    assert sorted(given[:2]) == ["3", "5"] and given[2:] == [None, None]
    assert engine.default_workers() == 2
    local.close()


def test_local__a_machine_without_a_gpu_leaves_the_environment_alone(received):
    local = engine.Local(1, 2.0)
    local.submit({"name": "x", "device": "auto"})
    assert local.ended(60)[0][0]["room"] == {"memory": 2 * 2**30, "gpu": 0} and received == [{}]
    local.close()


def test_gpus__are_those_that_a_scheduler_left_visible(monkeypatch):
    from kdlib import machine

    monkeypatch.setattr(machine.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7")
    assert machine.gpus() == ["2", "GPU-7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert machine.gpus() == ["0", "1"]


def test_room__on_the_disk_is_asked_for_what_an_experiment_wrote(monkeypatch, tmp_path, capfd):
    made = queue.Queue(SimpleNamespace(study="s"), [], 0, 1)
    monkeypatch.setattr(queue, "runs_root", lambda: tmp_path)
    spec = SimpleNamespace(name="x", config=SimpleNamespace(folder="projection"))
    free = {"free": 40 * 2**20}
    monkeypatch.setattr(queue.shutil, "disk_usage", lambda path: SimpleNamespace(**free))
    assert not made._room_for(spec)
    assert "needs about 50 MB and 40 MB are left" in capfd.readouterr().err
    made.used["projection"] = 2 * 2**20
    assert made._room_for(spec)
