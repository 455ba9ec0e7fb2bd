"""The engine on a dask scheduler and two workers that are processes of their own."""

import os
import subprocess
import sys
import threading

import pytest
import small_study
from small_study import until

from kdlib import run as engine
from kdlib.study import load
from kdlib.utils import read_json

METHODS = ["projection", "bottleneck", "resnet"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """``cluster(workers, **environment)``: the scheduler's file, with so many workers; ``cluster.processes``."""
    small_study.replace_science(monkeypatch.setattr)
    file, processes = tmp_path / "scheduler.json", []

    def begin(*arguments, **environment) -> None:
        call = [
            sys.executable,
            "-m",
            "dask",
            *map(str, arguments),
            "--scheduler-file",
            str(file),
            "--host",
            "127.0.0.1",
        ]
        log = open(tmp_path / f"log-{len(processes)}", "wb")  # noqa: SIM115, closed with the process
        processes.append(subprocess.Popen(call, env=os.environ | environment, stdout=log, stderr=log, cwd=tmp_path))

    def start(workers: int, **environment) -> str:
        begin("scheduler", "--port", 0, "--dashboard-address", "127.0.0.1:0")
        until(file.exists)
        for name in range(workers):
            begin("worker", "--nthreads", 1, "--no-nanny", "--name", f"node-{name}", **environment)
        return str(file)

    start.processes = processes
    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_scheduler__two_workers_run_the_study_and_the_loss_of_one_is_made_up_for(tmp_path, cluster, capsys):
    trouble = (
        'if method == "resnet" and once("worker died"):\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(60)'
    )
    study = load(small_study.write(tmp_path / "study", trouble, methods=METHODS))
    found = engine.run(study, scheduler=cluster(2))
    assert not any(found.values()), found
    said = capsys.readouterr().out
    assert "[3/3]" in said and "3 of 3 experiments are done" in said
    assert sum(process.poll() is not None for process in cluster.processes) == 1  # the one that died
    executed = read_json(small_study.run_folder(study.experiments()[0].config) / "notebook.ipynb")
    assert executed["metadata"]["papermill"]["exception"] is None


def test_scheduler__a_worker_that_sees_other_files_is_refused_with_the_variable(tmp_path, cluster):
    study = load(small_study.write(tmp_path / "study"))
    with pytest.raises(RuntimeError, match=r"The worker tcp://127\.0\.0\.1:\d+ has folders KDLIB_RUNS=\S+elsewhere"):
        engine.run(study, scheduler=cluster(1, KDLIB_RUNS=str(tmp_path / "elsewhere")))


def test_scheduler__one_that_ends_is_a_sentence_that_says_how_to_continue(tmp_path, cluster):
    study, file = load(small_study.write(tmp_path / "study", 'until("go")')), cluster(1)

    def end() -> None:
        until(lambda: list((tmp_path / "study/started").iterdir()))
        cluster.processes[0].kill()

    threading.Thread(target=end, daemon=True).start()
    with pytest.raises(RuntimeError, match=r"The dask scheduler is gone\. What is done is kept"):
        engine.run(study, scheduler=file)


def test_scheduler__none_that_answers_is_a_sentence(tmp_path, monkeypatch):
    small_study.replace_science(monkeypatch.setattr)
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:9: start it first"):
        engine.run(load(small_study.write(tmp_path / "study")), scheduler="tcp://127.0.0.1:9")
