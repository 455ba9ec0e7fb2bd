"""A study of seconds for the tests of the engine: a tiny notebook, and what it does in a file that a test writes.

``python tests/small_study.py run STUDY.yaml`` is the command line with what touches the science replaced.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import yaml

from kdlib import status
from kdlib.status import Job
from kdlib.utils import reports_root, runs_root, write_atomic, write_json

PARAMETERS = """study = "by_hand"
dataset = "coco"
method = "projection"
variant = ""
epochs = [5]
seed = 0
overrides = {}"""
WORK = """import json, os, signal, time
from pathlib import Path

here, name = Path.cwd(), method + ("+" + variant if variant else "")
folder = Path(os.environ["KDLIB_RUNS"], study, f"clip_{dataset}", name, f"seed{seed}-00000000")
Path(here, "started", f"{name}.{os.getpid()}").touch()


def once(word):
    first = not (here / word).exists()
    (here / word).touch()
    return first


def until(word):
    while not (here / word).exists():
        time.sleep(0.02)


exec(Path(here, "behaviour.py").read_text(encoding="utf-8"))
folder.mkdir(parents=True, exist_ok=True)
result = {"budgets": {str(budget): {} for budget in epochs}, "keys": {"evaluation": "e"}}
(folder / "result.json").write_text(json.dumps(result))
(folder / "scores.npz").touch()"""


def write(folder: Path, behaviour: str = "", cell: str = PARAMETERS, **fields) -> Path:
    """A study file with its notebook in ``folder``; ``behaviour``: code that the notebook runs before its result."""
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(WORK)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "kdlib": {"teacher": "clip", "dataset": "coco"}}
    (folder / "started").mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "tiny.ipynb")
    (folder / "behaviour.py").write_text(behaviour, encoding="utf-8")
    study = {"study": "small", "title": "Small", "notebooks": {"tiny": None}, "seeds": [0], "reports": ["tiny"]}
    study |= {"methods": ["projection"], "epochs": [1, 2], "memory_gb": 2}
    (folder / "small.yaml").write_text(yaml.safe_dump(study | fields), encoding="utf-8")
    return folder / "small.yaml"


def run_folder(config) -> Path:
    return runs_root() / config.study / f"clip_{config.dataset}" / config.folder / f"seed{config.seed}-00000000"


def job_of(planned) -> Job:
    config, folder, keys = planned.config, run_folder(planned.config), {"features": "f", "evaluation": "e"}
    reads = {"attention": "tokens", "cbam": "tokens", "resnet": "pixels"}.get(config.method, "features")
    why = status.lacks(folder, config.epochs, "e")
    return Job(planned.name, str(planned.notebook), config, folder, keys, reads, why)


def finished(folder: Path, epochs=(1, 2)) -> None:
    """What a notebook that was executed to its end leaves behind."""
    write_json(folder / "result.json", {"budgets": {str(budget): {} for budget in epochs}, "keys": {"evaluation": "e"}})
    for name in ("scores.npz", "notebook.ipynb"):
        write_atomic(folder / name, "")


def report(study: str, notebooks) -> Path:
    write_atomic(reports_root() / study / "index.html", " ".join(notebooks))


def replace_science(setattr=setattr) -> None:
    """No data, teacher or training: what is done is what the tiny notebook wrote. All in this process."""
    from kdlib import run

    setattr(status, "job_of", job_of)
    setattr(run, "apart", lambda function, *given: function(*given))
    setattr(run.report, "report", report)
    setattr(run, "BUILD", "fields = {}")


def command(*arguments, **options) -> subprocess.Popen:
    """The command line in a process of its own."""
    call = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def until(condition, seconds: float = 180):
    """Wait for it; a machine may be busy."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still do something; one that nobody has waited for does not."""
    found = []
    for process in processes:
        try:
            found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.NoSuchProcess:
            continue
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    replace_science()
    from kdlib import cli

    sys.argv[0] = "kdlib"
    os.environ.setdefault("COLUMNS", "200")
    cli.main()
