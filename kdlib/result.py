"""The record of a finished experiment, result-EEEE.json: scores, cost, data, versions, and files that belong to it."""

import os
import time
from pathlib import Path
from typing import Any

from kdlib import checkpoints, sources
from kdlib.config import RunConfig
from kdlib.data import splits as splitting
from kdlib.evaluate import reference
from kdlib.evaluate.cost import minutes_from_nothing, sizes, student_cost, times
from kdlib.evaluate.exposure import exposure
from kdlib.files import digest, file_digest, read_record, write_json
from kdlib.keys import SCHEMA, digest_of
from kdlib.machine import choose, gpu, hardware, versions

PAIRING = "student image x student text"


def result_of(experiment: Any, evaluation: dict, history: list[dict]) -> dict:
    """The result of a trained :class:`kdlib.experiment.Experiment`, before it is sealed.

    ``evaluation``: what its ``evaluate()`` found; ``history``: what its ``train()`` returned, a record an epoch.
    """
    config, student = experiment.config, experiment.trained.student
    facts = experiment.splits["fit"].store.manifest["facts"]
    cost, backbone = _cost(experiment), sources.backbone_cost(config)
    checkpoint = experiment.checkpoint
    trained_on = [experiment.splits[name] for name in ("fit", "extra") if name in experiment.splits]
    of_teacher = [store for split in experiment.splits.values() for store in split.of_teacher]
    return {
        "schema": SCHEMA,
        "outcome": "ok",
        "config": config.model_dump(),
        "keys": experiment.keys,
        "edited": experiment.edited,
        "headline": experiment.exam.headline,
        "pairing": PAIRING if experiment.has_text else "",
        "objective": list(experiment.trained.objective),
        **evaluation,
        "size": sizes(cost, backbone, student, checkpoint / checkpoints.FILES[0]),
        "time": times(cost, backbone, student, history)
        | {"minutes_from_nothing": minutes_from_nothing(trained_on, history)},
        "history": history,
        "teacher": {name: facts[name] for name in ("family", "source", "revision", "untrained", "grid")}
        | {
            "store_seconds": sum(store.manifest["build_seconds"] for store in of_teacher),
            "store_bytes": sum(store.bytes for store in of_teacher),
            "mb": sum(side["mb"] for side in backbone.values() if isinstance(side, dict)),
        },
        "exposure": exposure_of(config),
        "reference": _reference(experiment, evaluation["scores"]["teacher"], facts["source"]),
        "data": {name: _describe(experiment, name) for name in experiment.splits},
        "stores": {name: split.store.path.name for name, split in experiment.splits.items()},
        "checkpoint": {name: file_digest(checkpoint / name) for name in checkpoints.FILES},
        "hardware": hardware(choose(config.device)),
        "gpu": gpu(choose(config.device)),
        "versions": versions(),
        "files": _files(experiment, evaluation["controls"]),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def exposure_of(config: RunConfig) -> dict[str, str]:
    """How much of the scored data set the teacher, the student's initial weights and the extra images hold."""
    pretrained = config.pretrained and sources.reads(config.method) == "pixels"
    return exposure(sources.source(config), config.dataset, config.data_root, pretrained, config.extra_images)


def train_images(result: dict) -> int:
    """Training images of a result: fit and the extra ones, as far as the limit allows."""
    there = sum(result["data"][name]["images"] for name in ("fit", "extra") if name in result["data"])
    return min(result["config"]["train_limit"] or there, there)


def _files(experiment: Any, controls_name: str) -> dict[str, dict]:
    """Size and digest of the arrays that belong to the result, by their path from the run's folder."""
    run, epochs = experiment.run, experiment.config.epochs
    own = (run.scores_path(epochs), run.embeddings_path(epochs), run.path / "untrained.npz")
    paths = (*own, run.path.parents[1] / controls_name)
    return {
        Path(os.path.relpath(path, run.path)).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in paths
    }


def _cost(experiment: Any) -> dict:
    """Size and speed of the student. They do not depend on the number of epochs, so they are measured once."""
    path = experiment.run.path / "cost.json"
    key = digest(
        [
            experiment.keys["train"],
            digest_of("cost"),
            hardware(choose(experiment.config.device)),
            experiment.config.timed_calls,
        ]
    )
    record = read_record(path)
    if record is None or record.get("key") != key:
        image = experiment.data[experiment.exam.on].images[int(experiment.exam.scored.store.rows[0])]
        config = experiment.config
        cost = student_cost(
            experiment.trained.student, experiment.exam.scored, image, config.device, config.timed_calls
        )
        record = {"key": key, "cost": cost}
        write_json(path, record)
    return record["cost"]


def _reference(experiment: Any, scores: dict[str, float], source: str) -> list[dict]:
    """The teacher's scores beside what others measured of the same checkpoint on the same images."""
    if experiment.exam.on != "test":
        return []
    scored = experiment.exam.scored
    texts = len(scored.owner) if experiment.has_text else 0
    return reference.check(source, experiment.config.dataset, len(scored), texts, scores)


def _describe(experiment: Any, name: str) -> dict:
    store = experiment.splits[name].store
    return {
        "images": len(store),
        "skipped": len(store.skipped),
        "left_out": [list(pair) for pair in experiment.data[name].left_out],
        "duplicates": [list(pair) for pair in splitting.duplicates(experiment.data[name])],
        "ids_sha256": splitting.identity(store.ids),
        "ids_file": splitting.write_ids(experiment.config.dataset, name, store.ids).name,
        "fingerprint": experiment.data[name].fingerprint,
    }
