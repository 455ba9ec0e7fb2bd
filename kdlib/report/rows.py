"""Collects one row per experiment of a study from runs/, checks them, and writes results.csv and results.json."""

import json
from pathlib import Path

import pandas as pd

from kdlib.data.dataset import DataError
from kdlib.evaluate import reference
from kdlib.files import RunDir, read_json, runs_root, write_atomic
from kdlib.keys import SCHEMA
from kdlib.report.style import teacher_name
from kdlib.result import train_images
from kdlib.study.file import ExperimentSpec
from kdlib.study.status import ALL, Inspector
from kdlib.teachers import TeacherError

LISTED = 5  # names of images in a line


# Columns whose empty fields are '' and not missing numbers.
WORDS = {"variant", "tripped", "degenerate", "reference", "left_out", "epoch_seconds", "coinciding"}


class TripWireError(RuntimeError):
    """A check that a sound score must pass has failed: no table is written. The message says which, and where."""


def collect(experiments, folder_of, report_folder: Path, inspector: Inspector | None = None) -> list[dict]:
    """One flat row per experiment of a study, also for those without a result.

    A result of other parameters, data or code than now is 'stale', and its numbers are left out. If data or teacher are
    not on this machine, results are taken as they are. ``inspector``: one that may have opened the data sets already.
    """
    rows, inspector = [], inspector or Inspector()
    for spec in experiments:
        config = spec.config
        run = folder_of(config)
        outcome, result = _outcome(spec, run, inspector)
        page = spec.page if outcome in ("ok", "stale") else spec.failed_page
        row = {
            "study": config.study,
            "teacher": config.teacher,
            "dataset": config.dataset,
            "variant": config.variant,
            "method": config.method,
            "seed": config.seed,
            "epochs": config.epochs,
            "outcome": outcome,
            "run": run.path.relative_to(runs_root()).as_posix(),
        }
        if outcome == "ok":
            row |= flatten(result) | exported(run, config.epochs, result)
        elif result:
            row["error"] = result.get("error", "")
        row["page"] = page.relative_to(report_folder).as_posix() if page.exists() else ""
        rows.append(row)
    return rows


def _outcome(spec: ExperimentSpec, run: RunDir, inspector: Inspector) -> tuple[str, dict | None]:
    """The outcome of an experiment, and the record that says it."""
    if problem := run.result_problem(spec.config.epochs):
        return "damaged", {"error": f"{problem}; 'kdlib run' makes it again"}
    result, failure = run.result(spec.config.epochs), run.failure(spec.config.epochs)
    if result is None:
        return (failure["outcome"], failure) if failure else ("absent", None)
    if result.get("schema") != SCHEMA:
        return "stale", None
    try:
        found = inspector.state(spec)
    except (DataError, TeacherError, OSError):
        return result["outcome"], result
    if found.state == "failed" and found.missing == ALL:
        return failure["outcome"], failure
    if found.missing == ALL and found.state in ("resumable", "damaged"):  # arrays that belong to the result are gone
        return "damaged", {"error": f"{found.why}; 'kdlib run' makes it again"}
    return ("stale", None) if found.state == "stale" else (result["outcome"], result)


def flatten(result: dict) -> dict:
    """The numbers of one result record: scores as '<row> <score>', sizes in MB, times in s and ms."""
    name = result["headline"]
    row = {"headline": name, "score_on": result["config"]["score_on"], "controls": result["controls"]}
    # 'teacher' is the family's name in these rows, so the teacher's score is called teacher_score
    row |= {{"teacher": "teacher_score"}.get(who, who): scores[name] for who, scores in result["scores"].items()}
    row |= {
        f"{who} {score}": value
        for who, scores in result["scores"].items()
        for score, value in scores.items()
        if score != name
    }
    size, time = result["size"], result["time"]
    return row | {
        **size,
        **{
            f"{side}_{batch}_{part}": time[f"{side}_{batch}"][part]
            for side in ("image", "text")
            for batch in ("batch_1", "batch_32")
            for part in ("p10_ms", "p50_ms", "p90_ms")
            if f"{side}_{batch}" in time
        },
        **{name: time[name] for name in ("image_per_second", "text_per_second") if name in time},
        "train_seconds": sum(epoch["seconds"] for epoch in result["history"]),
        "seconds_per_epoch": time["seconds_per_epoch"],
        "first_epoch_seconds": time["first_epoch_seconds"],
        "data_share": time["data_share"],
        # each timed epoch but the first, which also warms up, where there are others
        "epoch_seconds": " ".join(f"{epoch['seconds']:.4g}" for epoch in result["history"][1:] or result["history"]),
        "minutes_from_nothing": time["minutes_from_nothing"],
        "store_seconds": result["teacher"]["store_seconds"],
        "store_bytes": result["teacher"]["store_bytes"],
        "teacher_source": result["teacher"]["source"],
        "teacher_mb": result["teacher"].get("mb"),
        "data_root": result["config"]["data_root"],
        "untrained_teacher": bool(result["teacher"]["untrained"]),
        "exposure": result["exposure"]["level"],
        "skipped_images": sum(split["skipped"] for split in result["data"].values()),
        **_copies(result["data"]),
        "coinciding": _coinciding(result["facts"].get("teacher", {})),
        "reference": reference.in_words(result.get("reference", [])),
        "fingerprints": " ".join(split["fingerprint"] for split in result["data"].values()),
        "image_size": result["config"]["image_size"],
        "convnet": result["config"]["convnet"],
        "width": result["config"]["width"],
        "objective": "+".join(result["objective"]),
        "images": result["data"][result["config"]["score_on"]]["images"],
        "train_images": train_images(result),
        "final_loss": result["history"][-1]["loss"],
        "images_seen": result["history"][-1].get("images_seen"),
        "lr_peak": result["config"]["lr_peak"],
        "degenerate": " ".join(result["degenerate"]),
        "tripped": "; ".join(f"{wire['wire']}: {wire['found']}" for wire in result["wires"] if not wire["passed"]),
        "exam_key": result["keys"]["exam"],
        "images_key": result["keys"]["images"],
        "ids_sha256": result["data"][result["config"]["score_on"]]["ids_sha256"],
        "experiment_key": result["keys"]["experiment"],
        "commit": result["versions"]["commit"],
    }


def exported(run: RunDir, epochs: int, result: dict) -> dict:
    """Headline score, interval, MB, operations and milliseconds of the exported files; {} if there are none.

    The teacher's files, exported by the same code, are measured and not scored.
    """
    record = read_json(run.exported_path(epochs)) or {}
    if record.get("experiment") != result["keys"]["experiment"]:
        return {}
    row, headline = {}, record["headline"]
    for who, found in record["rows"].items():
        if who != "student":
            low, high = found["intervals"][headline]
            row |= {who: found["scores"][headline], f"{who}_low": low, f"{who}_high": high, f"{who}_mb": found["mb"]}
    for who, sides in record["cost"].items():
        for side, cost in sides.items():
            part = f"exported_{who}_{side}"
            row |= {f"{part}_mb": cost["bytes"] / 2**20, f"{part}_macs": cost["macs"]}
            for threads in ("one_thread", "all_threads"):
                for batch, times in cost[threads].items():
                    row |= {f"{part}_{threads}_{batch}_{name}": times[name] for name in ("p10_ms", "p50_ms", "p90_ms")}
    return row


def _coinciding(facts: dict) -> str:
    """'1,989 of 2,500 captions' that the teacher tells from each other; '' where all embeddings differ."""
    words = {"image": "images", "text": "captions"}
    return ", ".join(f"{some:,} of {all_:,} {words[side]}" for side, (some, all_) in facts.get("distinct", {}).items())


def _copies(splits: dict[str, dict]) -> dict:
    """Images that were left out of training since another split has copies of them: their number and first names."""
    pairs = [f"{name} (a copy of {twin})" for split in splits.values() for name, twin in split.get("left_out", [])]
    return {
        "left_out_images": len(pairs),
        "left_out": ", ".join(pairs[:LISTED]) + (", ..." if len(pairs) > LISTED else ""),
        "duplicate_images": sum(len(split.get("duplicates", [])) for split in splits.values()),
    }


def check(rows: list[dict]) -> None:
    """Raise TripWireError if a trip-wire of any result was tripped; its numbers must not get into a table."""
    tripped: dict[str, list[str]] = {}
    for row in rows:
        if row.get("tripped"):
            tripped.setdefault(row["tripped"], []).append(row["run"])
    if tripped:
        listed = "\n  ".join(f"{what} (in {', '.join(dict.fromkeys(where))})" for what, where in tripped.items())
        raise TripWireError(
            f"No table is written: a check that every sound score passes has failed.\n  {listed}\n"
            "Look for a change in the metrics, in the data or in the stores since the last good run."
        )


def write(rows: list[dict], folder: Path) -> None:
    """results.csv and results.json, whole or not at all."""
    frame = pd.DataFrame(rows)
    write_atomic(folder / "results.csv", frame.to_csv(index=False))
    write_atomic(folder / "results.json", json.dumps(json.loads(frame.to_json(orient="records")), indent=1))


def read(folder: Path) -> pd.DataFrame:
    """The rows of a study. Raises FileNotFoundError with the remedy when there are none."""
    path = folder / "results.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no results yet. Run 'kdlib run' and 'kdlib report' on the study file.")
    frame = pd.read_csv(path)
    for name in WORDS & set(frame):
        frame[name] = frame[name].astype(object).fillna("").astype(str)
    return frame.copy()  # one block a type: of more than 100 blocks pandas warns, and the page would show it


def references(frame: pd.DataFrame) -> list[str]:
    """A line for each teacher whose scores were held against public figures of its checkpoint."""
    found = frame[frame.get("reference", pd.Series("", frame.index)).fillna("") != ""].groupby("teacher", sort=False)
    return [f"{teacher_name(name)}: {text}" for name, text in found.reference.first().items()] if len(found) else []
