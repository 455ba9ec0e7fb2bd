"""The record of a run, result.json: scores with their intervals, controls, cost, data, versions."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from kdlib import teachers, trainer, utils
from kdlib.distiller import role_of
from kdlib.evaluate import cost as costs
from kdlib.evaluate import known
from kdlib.evaluate.protocol import Evaluation, Scores, controls, embed, failed_checks
from kdlib.loader import with_shuffled_words
from kdlib.machine import choose, hardware, versions
from kdlib.utils import Progress, digest, file_digest, locked, read_json, runs_root

SCHEMA = 5  # raised when a field of the record changes its meaning


def write(experiment) -> dict:
    """Score the budgets of a trained experiment that have no current score; write its result and return it."""
    config, run, device = experiment.config, experiment.run, choose(experiment.config.device)
    evaluation, key = experiment.evaluation, experiment.keys["evaluation"]
    before = read_json(run / "result.json") or {"budgets": {}, "keys": {}}
    arrays = _arrays(run / "scores.npz") if before["budgets"] else {}
    if before["keys"].get("evaluation") != key:
        before, arrays = before | {"budgets": {}}, {}
    with Progress("scoring", len(config.epochs) + 2) as bar:
        shared, checks, file = _controls(experiment)
        bar.update(1, "controls")
        initial = {"random_init": experiment.initial()}
        if config.pretrained:
            initial = {"random_init": experiment._build(pretrained=False), "pretrained_init": initial["random_init"]}
        rows = {name: before.get("controls", {}).get(name) for name in initial}
        for name, distiller in initial.items():
            if rows[name] is None or not any(entry.startswith(f"{name}/") for entry in arrays):
                scores = evaluation.score(_embedded(experiment, distiller.student, evaluation))
                rows[name], arrays = scores.rows(), arrays | scores.arrays(name)
        budgets = before["budgets"]
        for done, epochs in enumerate(config.epochs):
            bar.update(2 + done, f"{epochs} epochs")
            if str(epochs) not in budgets:
                budgets[str(epochs)], made = _budget(experiment, epochs)
                arrays |= {f"{epochs}/{name}": values for name, values in made.items()}
        bar.update(2 + len(config.epochs), "cost")
        student, history = experiment.trained().student, trainer.history(run, config)
        measured = _student_cost(experiment, student, device)
    backbone = teacher_cost(config)
    facts, score = experiment.splits["fit"].features.facts, next(iter(rows.values()))
    record = {
        "schema": SCHEMA,
        "outcome": "ok",
        "config": config.model_dump(),
        "keys": experiment.keys,
        "edited": experiment.edited,
        "role": role_of(config),
        "objective": list(experiment.initial().objective),
        "primary": evaluation.primary,
        "pairing": "student image x student text" if experiment.has_text else "",
        "budgets": {name: budgets[name] for name in sorted(budgets, key=int)},
        "controls": shared | rows,
        "controls_file": os.path.relpath(file, run),
        "failed_checks": checks,
        # What random init nearly scores in full says nothing about training.
        "saturated": sorted(n for n, (value, *_) in score.items() if value > 0.99 and not n.endswith(("_rank", "_kl"))),
        "size": costs.sizes(measured, backbone, student) | {"file_mb": _stored_mb(student)},
        "time": costs.times(measured, backbone, student, history) | _spent(experiment, history),
        "history": history,
        "teacher": {name: facts[name] for name in ("family", "source", "revision", "untrained", "grid")},
        "leakage": known.leakage(config),
        "reference": _reference(experiment, shared["teacher"], facts["source"]),
        "data": {name: _described(experiment, name) for name in experiment.splits},
        "hardware": hardware(device),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    utils.write_arrays(run / "scores.npz", arrays)
    utils.write_json(run / "result.json", record)  # last: it says that the run is done
    (run / "running.json").unlink(missing_ok=True)
    return record


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, ValueError):
        return {}


def _embedded(experiment, student, evaluation: Evaluation) -> dict:
    device = choose(experiment.config.device)
    return {name: embed(student, experiment.splits[name], device) for name in evaluation.needed}


def _budget(experiment, epochs: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The entry of one budget and its arrays: scores on the scored split, on dev after a cooldown, words shuffled."""
    config, evaluation = experiment.config, experiment.evaluation
    student = experiment.trained(epochs).student
    embedded = _embedded(experiment, student, evaluation)
    scored = {"student": evaluation.score(embedded)}
    if config.cooldown and config.score_on == "test":  # which decides whether the student has converged
        on_dev = Evaluation(experiment.splits, "dev")
        scored["dev"] = on_dev.score(_embedded(experiment, student, on_dev))
    if student.text_reads == "ids":
        on = evaluation.on
        text = embed(student, with_shuffled_words(experiment.splits[on]), choose(config.device))["text"]
        scored["words_shuffled"] = evaluation.score(embedded | {on: embedded[on] | {"text": text}})
    path = trainer.checkpoint_of(experiment.run, experiment.keys["train"], epochs, config)
    entry = {
        "scores": {name: scores.rows() for name, scores in scored.items()},
        "facts": scored["student"].facts,
        "evaluation": experiment.keys["evaluation"],
        "checkpoint": file_digest(path),
        "cooldown": trainer.cooldown_epochs(config, epochs),
    }
    return entry, {name: values for who, scores in scored.items() for name, values in scores.arrays(who).items()}


def _controls(experiment) -> tuple[dict, list[str], Path]:
    """The controls of one teacher and data set, computed once for all its runs: rows, failed checks, file of arrays."""
    evaluation, width = experiment.evaluation, experiment.config.width
    path = experiment.run.parents[1] / f"controls-{experiment.keys['evaluation'][:12]}.json"
    file = path.with_suffix(".npz")
    with locked(path.with_suffix(".lock")):
        record = read_json(path)
        if record is None or not file.exists():
            scored: dict[str, Scores] = controls(evaluation, width)
            arrays = {name: values for who, scores in scored.items() for name, values in scores.arrays(who).items()}
            utils.write_arrays(file, arrays)
            record = {"rows": {who: scores.rows() for who, scores in scored.items()}}
            record["failed_checks"] = failed_checks(evaluation, scored)
            utils.write_json(path, record)
    return record["rows"], record["failed_checks"], file


def _measured(of: list, config, device, measure) -> dict:
    """A measurement of size and speed that is made once on a machine; kept below runs/cache/."""
    key = digest([of, hardware(device), config.timed_calls, file_digest(Path(costs.__file__))])
    path = runs_root() / "cache" / f"cost-{key[:16]}.json"
    with locked(path.with_suffix(".lock")):
        if (record := read_json(path)) is None:
            utils.write_json(path, record := measure())
    return record


def teacher_cost(config) -> dict:
    """Size and speed of the teacher at inference, for the students that need it there."""
    measure = lambda: costs.teacher_cost(teachers.load(config), config.timed_calls)  # noqa: E731
    return _measured([teachers.describe(config)], config, choose(config.device), measure)


def _student_cost(experiment, student, device) -> dict:
    config, split = experiment.config, experiment.evaluation.scored
    image = experiment.photo(split.name, 0)
    measure = lambda: costs.student_cost(student, split, image, device, config.timed_calls)  # noqa: E731
    return _measured([experiment.keys["train"]], config, device, measure)


def _stored_mb(student) -> float:
    """MB of a student's file: its parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in student.state_dict().values()) / 2**20


def _spent(experiment, history: list[dict]) -> dict:
    """Seconds of building the features of the training images, of training by budget; minutes of both."""
    trained_on = experiment.splits.get("train", experiment.splits["fit"])
    stores = [trained_on.features, trained_on.pixels, trained_on.source]
    built = sum({store.path: store.seconds for store in stores if store is not None}.values())
    seconds = {}
    for epochs in experiment.config.epochs:
        own = [r for r in history if r.get("cooldown", epochs) == epochs and ("cooldown" in r or r["epoch"] <= epochs)]
        seconds[str(epochs)] = sum(record["seconds"] for record in own)
    total = {epochs: (built + spent) / 60 for epochs, spent in seconds.items()}
    return {"features_s": built, "train_s": seconds, "total_min": total}


def _reference(experiment, teacher: dict, source: str) -> list[dict]:
    """The teacher's scores beside what others measured of the same checkpoint on the same images."""
    scored = experiment.evaluation.scored
    if experiment.config.score_on != "test":
        return []
    texts = len(scored.owner) if experiment.has_text else 0
    values = {metric: value for metric, (value, *_) in teacher.items()}
    return known.reference(source, experiment.config.dataset, len(scored), texts, values)


def _described(experiment, name: str) -> dict:
    """A split in the record; its ids go into a file of their own, runs/splits/."""
    stored, dataset = experiment.splits[name].features, experiment.data[name]
    text = "".join(f"{one}\n" for one in stored.ids)
    identity = hashlib.sha256(text.encode()).hexdigest()
    path = runs_root() / "splits" / f"{experiment.config.dataset.replace(':', '.')}-{name}-{identity[:12]}.txt"
    if not path.exists():
        utils.write_atomic(path, text)
    return {
        "title": dataset.title,
        "images": len(stored),
        "skipped": len(stored.skipped),
        "left_out": len(dataset.left_out),
        "left_out_first": [list(pair) for pair in dataset.left_out[:20]],
        "ids_sha256": identity,
        "fingerprint": dataset.fingerprint,
    }
