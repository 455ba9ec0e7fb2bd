"""runs/ -> tidy rows -> tables in the layout of the study's Figures 1 and 2."""

import json
from pathlib import Path

import pandas as pd

from kdlib.runs import write_atomic
from kdlib.study import METHODS

PAPER = Path(__file__).parent / "paper_results.csv"


def collect(cells, folder_of, report_folder: Path) -> list[dict]:
    """One flat row a cell of a study, whatever became of it."""
    rows = []
    for spec in cells:
        config = spec.config
        run = folder_of(config)
        result = run.result(config.epochs) or run.failure(config.epochs)
        page = spec.page
        row = {
            "study": config.study,
            "teacher": config.teacher,
            "dataset": config.dataset,
            "method": config.method,
            "seed": config.seed,
            "epochs": config.epochs,
            "outcome": result["outcome"] if result else "absent",
        }
        if result and result["outcome"] == "ok":
            row |= flatten(result)
        elif result:
            row["error"] = result.get("error", "")
        row["page"] = page.relative_to(report_folder).as_posix() if page.exists() else ""
        rows.append(row)
    return rows


def flatten(result: dict) -> dict:
    """The numbers of one result record: scores as '<row> <score>', sizes in MB, times in s and ms."""
    name = result["headline"]
    row = {"headline": name}
    # 'teacher' is the family's name in these rows, so the teacher's score is called teacher_score
    row |= {{"teacher": "teacher_score"}.get(who, who): scores[name] for who, scores in result["scores"].items()}
    row |= {
        f"{who} {score}": value
        for who, scores in result["scores"].items()
        for score, value in scores.items()
        if score != name
    }
    return row | {
        **result["size"],
        "seconds_per_epoch": result["time"]["seconds_per_epoch"],
        "first_epoch_seconds": result["time"]["first_epoch_seconds"],
        "inference_ms": result["time"]["batch_1"]["from_pixels_ms"],
        "inference_32_ms": result["time"]["batch_32"]["from_pixels_ms"],
        "store_seconds": result["teacher"]["store_seconds"],
        "teacher_source": result["teacher"]["source"],
        "untrained_teacher": bool(result["teacher"]["untrained"]),
        "skipped_images": sum(split["skipped"] for split in result["data"].values()),
        "convnet": result["config"]["convnet"],
        "width": result["config"]["width"],
        "final_loss": result["history"][-1]["loss"],
        "cell_key": result["keys"]["cell"],
        "commit": result["versions"]["commit"],
    }


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
    return pd.read_csv(path)


def paper() -> pd.DataFrame:
    """The study's printed results: teacher, dataset, method, epochs, size_mb, accuracy (share), outcome."""
    return pd.read_csv(PAPER)


def figure(frame: pd.DataFrame, dataset: str, value: str, digits: int = 3) -> pd.DataFrame:
    """One table in the study's layout: a row per teacher and epochs, a column per method.

    ``value``: a column of the rows. Seeds are averaged, with their standard deviation where there are several.
    Cells without a number say why.
    """
    part = frame[frame.dataset == dataset]
    methods = [name for name in METHODS if name in set(part.method)]
    methods += [name for name in dict.fromkeys(part.method) if name not in methods]
    lines = {}
    for (teacher, epochs), group in part.groupby(["teacher", "epochs"], sort=False):
        line = {}
        for method in methods:
            cells = group[group.method == method]
            line[method] = _text(cells, value, digits)
        lines[f"{teacher}, {epochs} epochs"] = line
    return pd.DataFrame.from_dict(lines, orient="index", columns=methods)


def _text(cells: pd.DataFrame, value: str, digits: int) -> str:
    if cells.empty:
        return "not run"
    good = cells[cells.outcome == "ok"]
    if good.empty or value not in good or good[value].isna().all():
        return str(cells.outcome.iloc[0]).replace("_", " ") if good.empty else "–"
    mean = f"{good[value].mean():.{digits}f}"
    return mean if len(good) == 1 else f"{mean} ± {good[value].std():.{digits}f}"


def paper_figure(dataset: str, value: str = "accuracy", digits: int = 4) -> pd.DataFrame:
    """The study's printed table, in the same layout."""
    return figure(paper(), dataset, value, digits)
