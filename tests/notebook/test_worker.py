import json
import os
import subprocess
import sys
import time
from pathlib import Path

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
    look = "print(sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    code = f"import kdlib.notebook.worker, kdlib.study.cluster, sys; {look}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == []


# A job that starts a kernel, warm where that can be had, writes down who they are, and waits.
KERNEL = """
import asyncio, os, pathlib, signal, sys, time
from kdlib.notebook import kernel, warm
from kdlib.notebook.worker import take_job
if warm.MARK in os.environ:
    kernel.fork_ahead()
job = take_job()
async def go():
    manager = kernel.LocalKernelManager()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=600)
    client.execute("while True: pass")  # it computes: only the system can end it
    scratch = pathlib.Path(job["pids"] + ".part")
    scratch.write_text(f"{os.getpid()} {manager.provisioner.pid}")
    os.replace(scratch, job["pids"])
asyncio.run(go())
signal.pause()
"""


@pytest.mark.parametrize("victim", ["job", "worker"])
@pytest.mark.parametrize("cold", [False, True])
def test_run_job__a_kernel_ends_with_its_job_and_the_job_with_its_worker(job, tmp_path, victim, cold):
    pids = tmp_path / "pids"
    told = job(KERNEL, pids=str(pids), threads=1)
    code = (
        "import json, sys; from kdlib.notebook import warm, worker; "
        f"warm.available = (lambda threads: False) if {cold} else warm.available; "
        "print(worker.run_job(json.loads(sys.argv[1]))['outcome'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(told)], stdout=subprocess.PIPE, text=True)
    try:
        while not pids.exists():
            assert process.poll() is None, (tmp_path / "job.log").read_text()
            time.sleep(0.05)
        of_job, of_kernel = map(psutil.Process, map(int, pids.read_text().split()))
        (of_job if victim == "job" else process).kill()
        for one in (of_job, of_kernel):
            while one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
        if victim == "job":
            assert process.communicate(timeout=600)[0].strip() == "kernel_died"
    finally:
        process.kill()


def test_run_job__one_that_nobody_wants_any_more_is_ended(job):
    told = job("import time; time.sleep(3600)")
    asked = iter([True, True])
    report = worker.run_job(told, wanted=lambda: next(asked, False))
    assert report["outcome"] == "abandoned"


def test_run_job__what_it_leaves_in_the_temporary_folder_goes_with_it(job):
    source = ANSWER + "import tempfile\nfolder = tempfile.mkdtemp()\n"
    source += "pathlib.Path(job['answer']).write_text(json.dumps({'outcome': 'ok', 'folder': folder}))"
    assert not Path(worker.run_job(job(source))["folder"]).exists()


def test_scratch__the_next_run_removes_what_a_killed_owner_left(tmp_path, monkeypatch):
    from kdlib.notebook import scratch

    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    code = "import os; from kdlib.notebook import scratch; scratch.Scratch(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)})
    assert len(list(tmp_path.glob("kdlib-*"))) == 1
    with scratch.Scratch() as mine:
        scratch.sweep()
        assert list(tmp_path.glob("kdlib-*")) == [mine]
