import json
import sys
import time

import psutil
import pytest

from kdlib.notebook import worker


@pytest.fixture
def job(tmp_path, monkeypatch):
    """``job(source)``: a job whose module is ``source``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(source: str, **fields) -> dict:
        (tmp_path / "jobmodule.py").write_text(source)
        given = {"module": "jobmodule", "threads": 1, "memory_bytes": 0, "log": str(tmp_path / "job.log")}
        return given | fields

    return make


ANSWER = "import json, os, sys, pathlib\njob = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"


def test_run_job__returns_the_modules_answer(job):
    source = ANSWER + "pathlib.Path(job['answer']).write_text(json.dumps({'outcome': 'ok', 'sum': job['a'] + 1}))"
    report = worker.run_job(job(source, a=2))
    assert (report["outcome"], report["sum"]) == ("ok", 3)
    assert report["seconds"] > 0


def test_run_job__no_answer_is_a_death_with_the_last_words(job):
    report = worker.run_job(job("import sys; sys.exit('the disk is gone')"))
    assert report["outcome"] == "kernel_died" and "the disk is gone" in report["error"]


def test_run_job__memory_of_grandchildren_counts_and_ends_the_job(job):
    child = "x = bytearray(300 * 2**20); import time; time.sleep(60)"
    source = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    report = worker.run_job(job(source, memory_bytes=200 * 2**20))
    assert report["outcome"] == "out_of_memory" and "of 0.2" in report["error"]


def test_run_job__nothing_survives_it(job, tmp_path):
    source = f"""import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
open({str(tmp_path / "pid")!r}, 'w').write(str(child.pid))"""
    worker.run_job(job(source))
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the job's child is still running"
        time.sleep(0.05)


def test_run_job__threads_are_capped(job):
    source = ANSWER + (
        "pathlib.Path(job['answer']).write_text(json.dumps({'outcome': 'ok', 'omp': os.environ['OMP_NUM_THREADS']}))"
    )
    assert worker.run_job(job(source, threads=3))["omp"] == "3"


def test_worker__imports_nothing_heavy():
    import subprocess

    code = "import kdlib.notebook.worker, sys; print(sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []
