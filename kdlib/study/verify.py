"""Checks that a study's files are unaltered: every file is hashed, and some scores are computed again."""

import random
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from kdlib import checkpoints, sources
from kdlib.evaluate.exam import Exam
from kdlib.features.npy import StoreError
from kdlib.features.store import FeatureStore, store_path
from kdlib.files import RunDir, file_digest, read_record, runs_root, seal, write_json
from kdlib.progress import Progress
from kdlib.study import status
from kdlib.study.file import ExperimentSpec, StudyConfig, experiments
from kdlib.trainer import cooldown_epochs

SAMPLE = 3  # results whose scores are computed again
CLOSE = 1e-6  # two values of a score may differ by this: sums can be added in another order
BESIDE = ("owner", "labels", "relevant")  # arrays of the same file that are not embeddings


def verify(config: StudyConfig, sample: int = SAMPLE) -> dict:
    """Hash stores, checkpoints, results, arrays, notebooks and pages; compute ``sample`` results' scores again.

    Returns {"when", "results", "recomputed", "problems": [text, ...]}, and writes it to runs/<study>/verified.json.
    Nothing is mended; 'kdlib run' does that.
    """
    inspector, found, good = status.Inspector(), [], []
    specs = experiments(config)
    stores: set[str] = set()
    with Progress("verified, experiments", len(specs)) as bar:
        for done, spec in enumerate(specs, 1):
            item = inspector.state(spec)
            result = item.run.result(spec.config.epochs)
            wrong = list(_wrong(item, result))
            found += [f"{spec.name}: {problem}" for problem in wrong]
            if result is not None and result["outcome"] == "ok" and not wrong:
                good.append((spec, item.run, result))
            stores |= set((result or {}).get("stores", {}).values())
            bar.update(done)
    found += [problem for name in sorted(stores) if (problem := _store_problem(name))]
    chosen = [] if found else random.Random(0).sample(good, min(sample, len(good)))  # altered data give no scores
    for spec, run, result in chosen:
        found += [f"{spec.name}: {problem}" for problem in recomputed(spec, run, result)]
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    record = {"when": when, "results": len(good), "recomputed": len(chosen), "problems": found}
    write_json(runs_root() / config.study / "verified.json", seal(record))
    return record


def _wrong(item: status.ExperimentState, result: dict | None) -> Iterator[str]:
    """What is wrong with an experiment's files. A missing result is not wrong, a damaged one is."""
    run, epochs = item.run, item.spec.config.epochs
    if item.state == "damaged" or (item.state == "resumable" and result is not None):
        yield item.why
    if result is None or result["outcome"] != "ok" or item.state == "stale":
        return
    for name, entry in result["files"].items():
        if (run.path / name).exists() and file_digest(run.path / name) != entry["sha256"]:
            yield f"{name} was altered since the result was written"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged checkpoints; they are reported below
        folder = checkpoints.scored(run, result["keys"]["train"], epochs, cooldown_epochs(item.spec.config))
    if folder is None:
        yield f"the checkpoint of epoch {epochs} is lost or damaged; the next run trains it again"
    elif altered := [name for name, known in result["checkpoint"].items() if file_digest(folder / name) != known]:
        yield f"{folder.name}: {', '.join(altered)} is not what was scored"
    published, notebook = read_record(run.published_path(epochs)) or {}, run.notebook_path(epochs)
    if notebook.exists() and file_digest(notebook) != published.get("notebook"):
        yield f"{notebook.name} was altered since it was executed"


def _store_problem(name: str) -> str:
    try:
        FeatureStore.open(store_path(name), verify=True)
        return ""
    except (StoreError, OSError) as error:
        return str(error)


def recomputed(spec: ExperimentSpec, run: RunDir, result: dict) -> list[str]:
    """The scores that differ when they are computed from the embeddings again."""
    data = sources.load_data(spec.config)
    splits = {name: sources.open_split(spec.config, name, dataset) for name, dataset in data.items()}
    with np.load(run.embeddings_path(spec.config.epochs)) as arrays:
        embedded: dict[str, dict[str, torch.Tensor]] = {}
        for name, values in arrays.items():
            split, _, side = name.partition("/")
            if side not in BESIDE:
                embedded.setdefault(split, {})[side] = torch.from_numpy(values)
    scores = Exam(splits, spec.config.score_on, spec.config.linear_probe).score(embedded).values
    recorded = result["scores"]["student"]
    return [
        f"{name} is {recorded[name]} in its result and {value} from its embeddings"
        for name, value in scores.items()
        if abs(recorded[name] - value) > CLOSE
    ]
