"""The record of a run, result.json: scores with their intervals, controls, cost, data, versions."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from kdlib import teachers, trainer, utils
from kdlib.data import counts
from kdlib.distiller import role_of
from kdlib.evaluate import cost as costs
from kdlib.evaluate import known
from kdlib.evaluate.protocol import Evaluation, Scores, controls, embed, failed_checks
from kdlib.loader import with_shuffled_words
from kdlib.machine import choose, hardware, versions
from kdlib.utils import Progress, digest, file_digest, locked, read_json, runs_root


def read(run: Path) -> dict:
    """The record of a finished run."""
    if (record := read_json(run / "result.json")) is None:
        raise FileNotFoundError(f"{run} has no result.json: it is no finished run, as .../seed0-1a2b3c4d.")
    return record


def write(experiment) -> dict:
    """Score the budgets of a trained experiment that have no current score; write its result and return it."""
    config, run, splits, evaluation = experiment.config, experiment.run, experiment.splits, experiment.evaluation
    before, arrays = read_json(run / "result.json"), {}
    if before and before["keys"]["evaluation"] == experiment.keys["evaluation"] and (run / "scores.npz").exists():
        if before["config"] == config.model_dump():
            return before  # as after a kill between the result and the end of its notebook
        with np.load(run / "scores.npz") as file:
            arrays = dict(file)
    else:
        before = {"budgets": {}, "controls": {}}
    budgets, started = before["budgets"], experiment.initial()
    initial = {"random_init": started}
    if config.pretrained:
        initial = {"random_init": experiment.distiller(pretrained=False), "pretrained_init": started}
    own = {name: row for name, row in before["controls"].items() if name in initial}
    with Progress("scoring", len(config.epochs) + 2) as bar:
        shared, checks, file = _controls(experiment)
        bar.update(1, "controls")
        for name, distiller in initial.items():
            if name not in own:
                scores = evaluation.score(evaluation.embed(distiller.student, config.device))
                own[name], arrays = scores.rows(), arrays | scores.arrays(name)
        for done, epochs in enumerate(config.epochs):
            bar.update(2 + done, f"{epochs} epochs")
            if str(epochs) not in budgets:
                scored = _budget(experiment, epochs)
                rows = {who: scores.rows() for who, scores in scored.items()}
                budgets[str(epochs)] = {"scores": rows, "facts": scored["student"].facts}
                for who, scores in scored.items():
                    arrays |= scores.arrays(f"{epochs}/{who}")
        bar.update(2 + len(config.epochs), "cost")
        student, photo = experiment.trained().student, experiment.photo(config.score_on, 0)
        cost = costs.student_cost(student, evaluation.scored, photo, config.device, config.timed_calls)
        backbone = _teacher_cost(config)
    facts, history, random = splits["fit"].features.facts, trainer.history(run, config), own["random_init"]
    record = {
        "outcome": "ok",
        "config": config.model_dump(),
        "keys": experiment.keys,
        "edited": experiment.edited,
        "role": role_of(config),
        "objective": list(started.objective),
        "primary": evaluation.primary,
        "pairing": "student image x student text" if experiment.has_text else "",
        "budgets": {name: budgets[name] for name in sorted(budgets, key=int)},
        "controls": shared | {name: own[name] for name in initial},
        "controls_file": os.path.relpath(file, run),
        "failed_checks": checks,
        # What random init nearly scores in full says nothing about training.
        "saturated": sorted(n for n, (x, *_) in random.items() if x > 0.99 and not n.endswith(("_rank", "_kl"))),
        "size": costs.sizes(cost, backbone, student),
        "time": costs.times(cost, backbone, student, history) | _spent(experiment, history),
        "history": history,
        "teacher": {name: facts[name] for name in ("source", "revision", "untrained", "audited")},
        "leakage": known.leakage(config),
        "data": {name: _described(split.features, experiment.data[name], config) for name, split in splits.items()},
        "hardware": hardware(choose(config.device)),
        "versions": versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    utils.write_arrays(run / "scores.npz", arrays)
    utils.write_json(run / "result.json", record)  # last: it says that the run is done
    (run / "running.json").unlink(missing_ok=True)
    return record


def _budget(experiment, epochs: int) -> dict[str, Scores]:
    """The scores of a budget: of the student, on dev after a cooldown, and of captions with shuffled words."""
    evaluation, splits, device = experiment.evaluation, experiment.splits, experiment.config.device
    student, on = experiment.trained(epochs).student, evaluation.on
    embedded = evaluation.embed(student, device)
    scored = {"student": evaluation.score(embedded)}
    if experiment.config.cooldown and on == "test":  # which decides whether the student has converged
        on_dev = Evaluation(splits, "dev")
        scored["dev"] = on_dev.score(on_dev.embed(student, device))
    if student.text_reads == "ids":
        text = embed(student, with_shuffled_words(splits[on]), device)["text"]
        scored["words_shuffled"] = evaluation.score(embedded | {on: embedded[on] | {"text": text}})
    return scored


def _controls(experiment) -> tuple[dict, list[str], Path]:
    """The controls of one teacher and data set, computed once for all its runs: rows, failed checks, file of arrays."""
    evaluation = experiment.evaluation
    path = experiment.run.parents[1] / f"controls-{experiment.keys['evaluation'][:12]}.json"
    file = path.with_suffix(".npz")
    with locked(path.with_suffix(".lock")):
        record = read_json(path)
        if record is None or not file.exists():
            scored, arrays = controls(evaluation, experiment.config.width), {}
            for who, scores in scored.items():
                arrays |= scores.arrays(who)
            rows = {who: scores.rows() for who, scores in scored.items()}
            record = {"rows": rows, "failed_checks": failed_checks(evaluation, scored)}
            utils.write_arrays(file, arrays)
            utils.write_json(path, record)
    return record["rows"], record["failed_checks"], file


def _teacher_cost(config) -> dict:
    """Measured once for each teacher on a machine; kept below runs/cache/."""
    of = [teachers.describe(config), hardware(choose(config.device)), config.timed_calls]
    path = runs_root() / "cache" / f"cost-{digest([*of, file_digest(Path(costs.__file__))])[:16]}.json"
    with locked(path.with_suffix(".lock")):
        if (record := read_json(path)) is None:
            utils.write_json(path, record := costs.teacher_cost(teachers.load(config), config.timed_calls))
    return record


def _spent(experiment, history: list[dict]) -> dict:
    """Seconds of building the features of the training images, of training by budget; minutes of both."""
    trained_on = experiment.splits.get("train", experiment.splits["fit"])
    stores = [trained_on.features, trained_on.pixels, trained_on.source]
    built = sum({store.path: store.seconds for store in stores if store is not None}.values())
    trained = {}
    for epochs in experiment.config.epochs:
        own = [r for r in history if r.get("cooldown", epochs) == epochs and ("cooldown" in r or r["epoch"] <= epochs)]
        trained[str(epochs)] = sum(record["seconds"] for record in own)
    total = {epochs: (built + seconds) / 60 for epochs, seconds in trained.items()}
    return {"features_s": built, "train_s": trained, "total_min": total}


def _described(stored, dataset, config) -> dict:
    """A split in the record; its ids go into a file of their own, runs/splits/."""
    text = "".join(f"{one}\n" for one in stored.ids)
    identity = hashlib.sha256(text.encode()).hexdigest()
    file = f"{config.dataset.replace(':', '.')}-{dataset.split}-{identity[:12]}.txt"
    utils.write_atomic(runs_root() / "splits" / file, text)
    own = {"title": dataset.title, "images": len(stored), "skipped": len(stored.skipped), "ids_sha256": identity}
    return counts({"": dataset})[""] | own
