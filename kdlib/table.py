"""runs/ -> tidy rows -> tables in the layout of the study's Figures 1 and 2, with controls and intervals."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.cell import SCHEMA
from kdlib.data.dataset import DataError
from kdlib.runs import RunDir, runs_root, write_atomic
from kdlib.state import Inspector
from kdlib.study import METHODS, CellSpec
from kdlib.teachers import TeacherError
from kdlib.uncertainty import Summary, summarise

PAPER = Path(__file__).parent / "paper_results.csv"
CONTROLS = {
    "teacher": "the teacher itself",
    "pca": "PCA, as wide as the student",
    "shuffled": "the teacher, pairs shuffled",
    "random": "random features",
    "constant": "a constant encoder",
}
GROUP = ["teacher", "dataset", "variant", "method", "epochs"]  # what the seeds of one number have in common


class TripWireError(RuntimeError):
    """A check that a sound score must pass has failed: no table is written. The message says which, and where."""


def collect(cells, folder_of, report_folder: Path) -> list[dict]:
    """One flat row a cell of a study, whatever became of it.

    A result of other parameters, data or code than now is 'stale' and its numbers stay out. Where data or teacher
    cannot be had (results carried to another machine), results are taken as they are.
    """
    rows, inspector = [], Inspector()
    for spec in cells:
        config = spec.config
        run = folder_of(config)
        outcome, result = _outcome(spec, run, inspector)
        page = spec.page
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
            row |= flatten(result)
        elif result:
            row["error"] = result.get("error", "")
        row["page"] = page.relative_to(report_folder).as_posix() if page.exists() else ""
        rows.append(row)
    return rows


def _outcome(spec: CellSpec, run: RunDir, inspector: Inspector) -> tuple[str, dict | None]:
    """What became of a cell, and the record that says so."""
    result, failure = run.result(spec.config.epochs), run.failure(spec.config.epochs)
    if result is None:
        return (failure["outcome"], failure) if failure else ("absent", None)
    if result.get("schema") != SCHEMA:
        return "stale", None
    try:
        found = inspector.state(spec)
    except (DataError, TeacherError, OSError):
        return result["outcome"], result
    if found.state == "failed":
        return failure["outcome"], failure
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
        "seconds_per_epoch": time["seconds_per_epoch"],
        "first_epoch_seconds": time["first_epoch_seconds"],
        "data_share": time["data_share"],
        "minutes_from_nothing": time["minutes_from_nothing"],
        "store_seconds": result["teacher"]["store_seconds"],
        "store_bytes": result["teacher"]["store_bytes"],
        "teacher_source": result["teacher"]["source"],
        "data_root": result["config"]["data_root"],
        "untrained_teacher": bool(result["teacher"]["untrained"]),
        "exposure": result["exposure"]["level"],
        "skipped_images": sum(split["skipped"] for split in result["data"].values()),
        "convnet": result["config"]["convnet"],
        "width": result["config"]["width"],
        "objective": "+".join(result["objective"]),
        "train_images": min(result["config"]["train_limit"] or np.inf, result["data"]["fit"]["images"]),
        "final_loss": result["history"][-1]["loss"],
        "degenerate": " ".join(result["degenerate"]),
        "tripped": "; ".join(f"{wire['wire']}: {wire['found']}" for wire in result["wires"] if not wire["passed"]),
        "exam_key": result["keys"]["exam"],
        "images_key": result["keys"]["images"],
        "cell_key": result["keys"]["cell"],
        "commit": result["versions"]["commit"],
    }


def check(rows: list[dict]) -> None:
    """Raise TripWireError when a wire of any result was tripped: its numbers must not get into a table."""
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
    for name in {"variant", "tripped", "degenerate"} & set(frame):  # words, which may be none
        frame[name] = frame[name].fillna("").astype(str)
    return frame


def paper() -> pd.DataFrame:
    """The study's printed results: teacher, dataset, method, epochs, size_mb, accuracy (share), outcome."""
    return pd.read_csv(PAPER)


# ---------------------------------------------------------------- numbers with their intervals


def _arrays(path: Path, name: str) -> np.ndarray:
    return _read_array(path, name, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_array(path: Path, name: str, written: int) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays[name]


def replicates(row, who: str, score: str) -> np.ndarray:
    """(R,) a score of one cell on each resample of the test images. ``who``: student, untrained, teacher, pca, ..."""
    run = runs_root() / row.run
    path = {"student": run / f"scores-{row.epochs:04d}.npz", "untrained": run / "untrained.npz"}.get(
        who, run.parents[1] / row.controls
    )
    return _arrays(path, f"{who}/replicates/{score}").astype(np.float64)


def seeds_of(cells: pd.DataFrame, who: str, score: str) -> tuple[list[float], np.ndarray]:
    """A score of cells that differ in the seed alone: (S,) values and (S, R) replicates; controls have one."""
    good = cells[cells.outcome == "ok"]
    if who not in ("student", "untrained"):
        good = good.head(1)
    if who == "untrained":
        good = good.drop_duplicates("seed")
    headline = good.headline.iloc[0]
    column = {"teacher": "teacher_score"}.get(who, who) if score in ("", headline) else f"{who} {score}"
    lines = [replicates(row, who, score or headline) for row in good.itertuples()]
    return good[column].tolist(), np.stack(lines)


def same_images(*sides: pd.DataFrame) -> bool:
    """Whether all cells were scored on the same images: nothing else can be compared in pairs."""
    return len({key for cells in sides for key in cells[cells.outcome == "ok"].images_key}) == 1


def summary_of(cells: pd.DataFrame, who: str = "student", score: str = "") -> Summary:
    """Mean over seeds, their standard deviation, and the interval over test images. ``score``: the headline if ''."""
    return summarise(*seeds_of(cells, who, score))


def methods_of(frame: pd.DataFrame) -> list[str]:
    """The study's methods in its order, then others."""
    present = list(dict.fromkeys(frame.method))
    return [name for name in METHODS if name in present] + [name for name in present if name not in METHODS]


def line_name(teacher: str, variant: str, epochs: int | None = None) -> str:
    """'clip', 'blip, untrained heads', 'dino, no teacher, 5 epochs'."""
    parts = [teacher, variant.replace("_", " "), f"{epochs} epochs" if epochs else ""]
    return ", ".join(part for part in parts if part)


def figure(frame: pd.DataFrame, dataset: str, score: str = "", digits: int = 3, controls: bool = True) -> pd.DataFrame:
    """One table in the study's layout, controls first: a row per teacher and epochs, a column per method.

    ``score``: the headline if ''. Numbers are '0.72 ± 0.01 [0.70, 0.74]': mean over seeds, standard deviation over
    seeds where there are several, 95 % interval over test images. Cells without a number say why. Controls that do
    not depend on the method stand in the first column.
    """
    part = frame[frame.dataset == dataset]
    methods = methods_of(part)
    lines: dict[str, dict[str, str]] = {}
    for teacher, of_teacher in part.groupby("teacher", sort=False):
        shown: set = set()
        for (variant, epochs), group in of_teacher.groupby(["variant", "epochs"], sort=False):
            good = group[group.outcome == "ok"]
            if controls and len(good) and good.exam_key.iloc[0] not in shown:
                shown.add(good.exam_key.iloc[0])
                lines |= _control_lines(
                    line_name(teacher, variant), of_teacher[of_teacher.variant == variant], score, digits
                )
            cells = {method: _text(group[group.method == method], score, digits) for method in methods}
            lines[line_name(teacher, variant, epochs)] = cells
    columns = ["control", *methods] if controls else methods
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns).fillna("")


def _control_lines(name: str, cells: pd.DataFrame, score: str, digits: int) -> dict[str, dict[str, str]]:
    good = cells[cells.outcome == "ok"]
    lines = {f"{name}: {words}": {"control": _number(good, who, score, digits)} for who, words in CONTROLS.items()}
    lines[f"{name}: the student untrained"] = {
        method: _number(group, "untrained", score, digits) for method, group in good.groupby("method", sort=False)
    }
    return lines


def _number(cells: pd.DataFrame, who: str, score: str, digits: int) -> str:
    try:
        return summary_of(cells, who, score).text(digits)
    except KeyError:  # CKA has no resamples; in_batch@256 of 159 images is not there at all
        values = cells.drop_duplicates("seed").get(f"{who} {score}", pd.Series(dtype=float)).dropna()
        if values.empty:
            return "–"
        return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def _text(cells: pd.DataFrame, score: str, digits: int) -> str:
    if cells.empty:
        return ""
    if not (cells.outcome == "ok").any():
        return str(cells.outcome.iloc[0]).replace("_", " ")
    good, all_of_them = cells[cells.outcome == "ok"], len(cells)
    missing = f" ({len(good)} of {all_of_them} seeds)" if len(good) < all_of_them else ""
    return _number(good, "student", score, digits) + missing


def paper_figure(dataset: str, value: str = "accuracy", digits: int = 4) -> pd.DataFrame:
    """The study's printed table, in the same layout."""
    part = paper()
    part = part[part.dataset == dataset]
    lines: dict[str, dict[str, str]] = {}
    for row in part.itertuples():
        number = getattr(row, value)
        text = f"{number:.{digits}f}" if pd.notna(number) else row.outcome.replace("_", " ")
        lines.setdefault(line_name(row.teacher, "", row.epochs), {})[row.method] = text
    methods = [name for name in METHODS if name in set(part.method)]
    return pd.DataFrame.from_dict(lines, orient="index", columns=methods).fillna("not printed")
