"""All probes of a study at once, and what they leave behind."""

import json
import time
from itertools import count

import pytest

from kdlib import study
from kdlib.notebook import worker
from kdlib.study import forecast, measure, sizes
from kdlib.study.file import ExperimentSpec


def test_working_seconds__are_those_of_training_and_scoring(tmp_path):
    def cell(source: str, seconds: int) -> dict:
        clock = {"start_time": "2026-01-01T00:00:00", "end_time": f"2026-01-01T00:00:{seconds:02d}"}
        return {"source": [source], "metadata": {"papermill": clock}}

    cells = [cell("history = experiment.train(distiller)", 7), cell("show.setup(experiment)", 20),
             cell("result = experiment.finish(experiment.evaluate(), history)", 4)]  # fmt: skip
    (tmp_path / "done.ipynb").write_text(json.dumps({"cells": cells}))
    assert measure.working_seconds(tmp_path / "done.ipynb") == 11


def test_working_seconds__finds_both_in_the_notebooks():
    for name in ("dino_tinyimagenet", "clip_coco"):
        text = (study.notebooks_folder() / f"{name}.ipynb").read_text()
        assert "experiment.train(" in text and "experiment.evaluate()" in text


def test_measure__the_whole_of_it(small_run):
    """Notebook, processes and all; nothing is left in the folder of runs."""
    spec = ExperimentSpec(notebook="dino_tinyimagenet", config=small_run("dino"))
    found = sizes.sources_of([spec])
    rates = measure.measure([spec], {key: source.counts for key, source in found.items()}, 2)
    assert not [name for name, rate in rates.items() if "problem" in rate], rates
    assert 0 < rates["tinyimagenet"]["fixed"] < rates["all"]["seconds"]
    predicted = forecast.predict([spec], found, rates, 1)
    assert predicted["experiments"][spec.name]["seconds"] > rates["tinyimagenet"]["fixed"]
    assert not list(forecast.runs_root().glob("probe-*"))


def test_measure__an_interruption_leaves_nothing_behind(small_run, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sleeper.py").write_text("import time\n\ntime.sleep(600)\n")
    running, turns = [], count()

    def run(*given):
        """The first probe is interrupted while the second one's job runs."""
        if next(turns):
            return worker.run_job({"module": "sleeper", "threads": 1, "memory_bytes": 0, "log": str(tmp_path / "log")})
        while not worker._running:
            time.sleep(0.05)
        running.extend(worker._running)
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "_run", run)
    monkeypatch.setattr(measure, "_notebook", run)
    spec = ExperimentSpec(notebook="dino_tinyimagenet", config=small_run("dino"))
    with pytest.raises(KeyboardInterrupt):
        measure.measure([spec], {spec.sources: {}}, workers=2)
    assert running and all(process.poll() is not None for process in running)
    assert not list(forecast.runs_root().glob("probe-*"))
