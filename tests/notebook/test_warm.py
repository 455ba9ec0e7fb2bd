import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from kdlib.experiment import Experiment
from kdlib.notebook import warm, worker

pytestmark = pytest.mark.skipif(not warm.available(1), reason="no fork server on this system")

ANSWER = "import json, os, sys, pathlib\njob = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(source)``: what a warm job with this source answers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def go(source: str, threads: int = 1) -> dict:
        (tmp_path / "warmjob.py").write_text(
            ANSWER + source + "\npathlib.Path(job['answer']).write_text(json.dumps({'outcome': 'ok', 'found': found}))"
        )
        job = {"module": "warmjob", "threads": threads, "memory_bytes": 0, "log": str(tmp_path / "job.log")}
        report = worker.run_job(job)
        assert report["outcome"] == "ok", (tmp_path / "job.log").read_text()
        return report["found"]

    return go


def test_warm__a_job_finds_its_imports_done_and_its_environment_set(run):
    found = run("found = [os.environ.get('KDLIB_WARM'), 'torch' in sys.modules, os.environ['OMP_NUM_THREADS']]")
    assert found == ["1", True, "1"]
    assert "KDLIB_WARM" not in os.environ


def test_warm__one_job_does_not_see_what_another_did(run):
    change = "import torch\ntorch.manual_seed(5); torch.mark = 'mine'; os.environ['MARK'] = 'mine'; os.chdir('/')\n"
    look = "import torch\nfound = [hasattr(torch, 'mark'), os.environ.get('MARK'), os.getcwd(), torch.initial_seed()]"
    before = run(look)
    run(change + "found = 0")
    assert run(look) == before
    assert before[:2] == [False, None]


def test_warm__another_number_of_threads_gets_a_cold_process(run):
    run("found = 0")
    assert not warm.available(3)
    assert run("found = os.environ.get('KDLIB_WARM')", threads=3) is None


def test_experiments__that_read_the_store_import_neither_transformers_nor_torchvision(small_run):
    config = small_run("clip", method="attention")
    Experiment.open(config)  # builds the stores, for which the teacher is needed
    code = (
        "import sys, json\nfrom kdlib.experiment import Experiment\nfrom kdlib.config import RunConfig\n"
        "from kdlib.report import experiment_page\n"
        "experiment = Experiment.open(RunConfig(**json.loads(sys.argv[1])))\n"
        "experiment.train()\nexperiment.evaluate()\n"
        "print(json.dumps(sorted({'transformers', 'torchvision'} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code, config.model_dump_json()]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(out.splitlines()[-1]) == []


def test_warm__below_dasks_nanny_jobs_are_warm_too(run, monkeypatch):
    """There a worker is a daemon, which multiprocessing forbids to start processes."""
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert run("found = os.environ.get('KDLIB_WARM')") == "1"
    assert multiprocessing.current_process().daemon
