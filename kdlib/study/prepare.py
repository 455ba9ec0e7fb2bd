"""Build the feature stores of one notebook before its experiments start: ``python -m kdlib.study.prepare JOB.json``."""

import json
import time
from pathlib import Path

from kdlib import sources
from kdlib.config import RunConfig
from kdlib.features import FeatureStore
from kdlib.files import runs_root
from kdlib.notebook.worker import take_job


def main() -> None:
    """Build the stores of the job in the file that the command names, and write the answer.

    ``built`` in the answer: whether all stores were built from nothing. Only then is the job's time that of building.
    """
    began = time.time()
    resumed = any((runs_root() / "features").glob("*.partial"))
    job = take_job()
    config = RunConfig(**job["config"])
    try:
        configs = [RunConfig(**given) for given in job.get("configs", [job["config"]])]
        stores = [store for given in configs for store in _stores(given, job["tokens"])]
        sources.backbone_cost(config)
        built = not resumed and all((store.path / "manifest.json").stat().st_mtime >= began for store in stores)
        report = {"outcome": "ok", "built": built}
    except Exception as problem:  # told to the grid, which tells the user
        report = {"outcome": "error", "error": f"{type(problem).__name__}: {problem}"}
    Path(job["answer"]).write_text(json.dumps(report))


def _stores(config: RunConfig, tokens: bool) -> list[FeatureStore]:
    """The stores that need the teacher: features of the splits, and of views of the training images."""
    data, views = sources.load_data(config), sources.views_of(config)
    stores = [sources.teacher_store(config, dataset, tokens) for dataset in data.values()]
    if views is not None and views.count:
        stores += [sources.view_store(config, data[name]) for name in ("fit", "extra") if name in data]
    return stores


if __name__ == "__main__":
    main()
