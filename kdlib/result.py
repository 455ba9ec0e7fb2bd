"""The record of a run, result.json: scores with their intervals, controls, cost, data, versions."""

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
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


def read(run: Path) -> dict:
    """The record of a finished run."""
    if (record := read_json(run / "result.json")) is None:
        raise FileNotFoundError(f"{run} has no result.json: it is no finished run, as .../seed0-1a2b3c4d.")
    return record


def write(experiment) -> dict:
    """Score the budgets of a trained experiment that have no current score; write its result and return it."""
    config, run, splits = experiment.config, experiment.run, experiment.splits
    evaluation, device = experiment.evaluation, choose(config.device)
    before, arrays = read_json(run / "result.json"), {}
    if before and before["keys"]["evaluation"] == experiment.keys["evaluation"] and (run / "scores.npz").exists():
        with np.load(run / "scores.npz") as file:
            arrays = dict(file)
        scored = {str(epochs) for epochs in config.epochs} <= before["budgets"].keys()
        if scored and before["config"] == config.model_dump():
            return before  # as after a kill between the result and the end of its notebook
    else:
        before = {"budgets": {}, "controls": {}}
    with Progress("scoring", len(config.epochs) + 2) as bar:
        shared, checks, file = _controls(experiment)
        bar.update(1, "controls")
        initial = {"random_init": experiment.initial()}
        if config.pretrained:
            initial = {"random_init": experiment.build(pretrained=False), "pretrained_init": initial["random_init"]}
        rows = {name: row for name, row in before["controls"].items() if name in initial}
        for name, distiller in initial.items():
            if name not in rows:
                embedded = {split: embed(distiller.student, splits[split], device) for split in evaluation.needed}
                scores = evaluation.score(embedded)
                rows[name], arrays = scores.rows(), arrays | scores.arrays(name)
        budgets = before["budgets"]
        for done, epochs in enumerate(config.epochs):
            bar.update(2 + done, f"{epochs} epochs")
            if str(epochs) not in budgets:
                budgets[str(epochs)], made = _budget(experiment, epochs)
                arrays |= {f"{epochs}/{name}": values for name, values in made.items()}
        bar.update(2 + len(config.epochs), "cost")
        student, photo, calls = experiment.trained().student, experiment.photo(config.score_on, 0), config.timed_calls
        measure = partial(costs.student_cost, student, evaluation.scored, photo, device, calls)
        own = _once(experiment.keys["train"], config, measure)
        backbone = _once(teachers.describe(config), config, lambda: costs.teacher_cost(teachers.load(config), calls))
    facts, score, history = splits["fit"].features.facts, rows["random_init"], trainer.history(run, config)
    stored_bytes = sum(value.numel() * value.element_size() for value in student.state_dict().values())
    on = len(evaluation.scored), len(evaluation.scored.owner) if experiment.has_text else 0
    values = {metric: value for metric, (value, *_) in shared["teacher"].items()}
    reference = known.reference(facts["source"], config.dataset, *on, values) if config.score_on == "test" else []
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
        "size": costs.sizes(own, backbone, student) | {"file_mb": stored_bytes / 2**20},
        "time": costs.times(own, backbone, student, history) | _spent(experiment, history),
        "history": history,
        "teacher": {name: facts[name] for name in ("family", "source", "revision", "untrained", "grid")},
        "leakage": known.leakage(config),
        "reference": reference,
        "data": {name: _described(split.features, experiment.data[name], config) for name, split in splits.items()},
        "hardware": hardware(device),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    utils.write_arrays(run / "scores.npz", arrays)
    utils.write_json(run / "result.json", record)  # last: it says that the run is done
    (run / "running.json").unlink(missing_ok=True)
    return record


def _budget(experiment, epochs: int) -> tuple[dict, dict[str, np.ndarray]]:
    """The entry of one budget and its arrays: scores on the scored split, on dev after a cooldown, words shuffled."""
    config, evaluation, device = experiment.config, experiment.evaluation, choose(experiment.config.device)
    student, splits, on = experiment.trained(epochs).student, experiment.splits, config.score_on
    embedded = {name: embed(student, splits[name], device) for name in evaluation.needed}
    scored = {"student": evaluation.score(embedded)}
    if config.cooldown and on == "test":  # which decides whether the student has converged
        on_dev = Evaluation(splits, "dev")
        scored["dev"] = on_dev.score({name: embed(student, splits[name], device) for name in on_dev.needed})
    if student.text_reads == "ids":
        text = embed(student, with_shuffled_words(splits[on]), device)["text"]
        scored["words_shuffled"] = evaluation.score(embedded | {on: embedded[on] | {"text": text}})
    path = trainer.checkpoint_of(experiment.run, experiment.keys["train"], epochs, config)
    entry = {
        "scores": {name: scores.rows() for name, scores in scored.items()},
        "facts": scored["student"].facts,
        "evaluation": experiment.keys["evaluation"],
        "checkpoint": file_digest(path),
        "cooldown": trainer.cooldown_epochs(config, epochs),
    }
    return entry, _all_arrays(scored)


def _all_arrays(scored: dict[str, Scores]) -> dict[str, np.ndarray]:
    return {name: values for who, scores in scored.items() for name, values in scores.arrays(who).items()}


def _controls(experiment) -> tuple[dict, list[str], Path]:
    """The controls of one teacher and data set, computed once for all its runs: rows, failed checks, file of arrays."""
    evaluation = experiment.evaluation
    path = experiment.run.parents[1] / f"controls-{experiment.keys['evaluation'][:12]}.json"
    file = path.with_suffix(".npz")
    with locked(path.with_suffix(".lock")):
        record = read_json(path)
        if record is None or not file.exists():
            scored = controls(evaluation, experiment.config.width)
            rows = {who: scores.rows() for who, scores in scored.items()}
            record = {"rows": rows, "failed_checks": failed_checks(evaluation, scored)}
            utils.write_arrays(file, _all_arrays(scored))
            utils.write_json(path, record)
    return record["rows"], record["failed_checks"], file


def _once(of, config, measure: Callable[[], dict]) -> dict:
    """A measurement of size and speed that is made once on a machine; kept below runs/cache/."""
    key = digest([of, hardware(choose(config.device)), config.timed_calls, file_digest(Path(costs.__file__))])
    path = runs_root() / "cache" / f"cost-{key[:16]}.json"
    with locked(path.with_suffix(".lock")):
        if (record := read_json(path)) is None:
            utils.write_json(path, record := measure())
    return record


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


def _described(stored, dataset, config) -> dict:
    """A split in the record; its ids go into a file of their own, runs/splits/."""
    text = "".join(f"{one}\n" for one in stored.ids)
    identity = hashlib.sha256(text.encode()).hexdigest()
    file = f"{config.dataset.replace(':', '.')}-{dataset.split}-{identity[:12]}.txt"
    utils.write_atomic(runs_root() / "splits" / file, text)
    return {
        "title": dataset.title,
        "images": len(stored),
        "skipped": len(stored.skipped),
        "left_out": len(dataset.left_out),
        "left_out_first": [list(pair) for pair in dataset.left_out[:20]],
        "ids_sha256": identity,
        "fingerprint": dataset.fingerprint,
    }
