"""A study of 2,400 experiments: what ``kdlib status`` and the report's rows take, against a tenth of it."""

import os
import shutil
from pathlib import Path

from kdlib import study
from kdlib.bench.measure import Row, Setting, seconds
from kdlib.config import RunConfig
from kdlib.experiment import Experiment, run_dir
from kdlib.files import file_digest, reports_root, runs_root, seal, write_json
from kdlib.notebook.page import MADE_FROM
from kdlib.report import rows
from kdlib.study.file import ExperimentSpec, StudyConfig
from kdlib.study.status import Inspector

NAME, SEEDS = "bench_large", 400  # of each method, at one number of epochs


def run(setting: Setting) -> list[Row]:
    """Measure both on a study whose results are copies of one, each under its own keys."""
    parameters = {"timed_calls": 5, "linear_probe": False, "width": 16}
    config = StudyConfig(
        study=NAME, title="Bench", notebooks={"clip_coco": {}}, epochs=(1,), seeds=range(SEEDS), parameters=parameters
    )
    specs = study.experiments(config)
    try:
        source = Experiment.open(RunConfig(**specs[0].config.model_dump()))
        history = source.train()
        result = source.finish(source.evaluate(), history)
        inspector = Inspector()
        for spec in specs:
            _copy(spec, source.run.path, result, inspector.keys(spec))
        return [_row("kdlib status", specs, _status), _row("the report's rows", specs, _rows)]
    finally:
        for root in (runs_root(), reports_root()):
            shutil.rmtree(root / NAME, ignore_errors=True)


def _copy(spec: ExperimentSpec, source: Path, result: dict, keys: dict) -> None:
    """Make a finished experiment: a copy of the result under its own keys, links to its arrays, notebook, page."""
    run = run_dir(spec.config)
    run.path.mkdir(parents=True, exist_ok=True)
    for name in ("scores-0001.npz", "embeddings-0001.npz", "untrained.npz"):
        if not (run.path / name).exists():
            os.link(source / name, run.path / name)
    own = {name: value for name, value in result.items() if name != "digest"}
    record = seal(own | {"config": spec.config.model_dump(), "keys": keys})
    write_json(run.result_path(1), record)
    notebook = run.notebook_path(1)
    notebook.write_text("{}")
    published = {"result": record["digest"], "notebook": file_digest(notebook), "bytes": notebook.stat().st_size}
    write_json(run.published_path(1), published)
    spec.page.parent.mkdir(parents=True, exist_ok=True)
    spec.page.write_text(f"{MADE_FROM}{file_digest(notebook)} -->\n")


def _status(specs: list[ExperimentSpec]) -> None:
    inspector = Inspector()
    states = [inspector.state(spec).state for spec in specs]
    if set(states) != {"done"}:
        raise RuntimeError(f"The bench's experiments are {', '.join(sorted(set(states)))}, and should be done.")


def _rows(specs: list[ExperimentSpec]) -> None:
    rows.collect(specs, run_dir, reports_root() / NAME)


def _row(what: str, specs: list[ExperimentSpec], call) -> Row:
    tenth = specs[:: len(specs) // 240]
    call(tenth)  # reads the data and hashes the teacher
    small, large = seconds(lambda: call(tenth)), seconds(lambda: call(specs))
    return Row(f"{what} of {len(specs)} experiments", f"of {len(tenth)}", large / small, 15, large, small, "s", True)
