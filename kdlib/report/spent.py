"""What a study cost: minutes of computing and gigabytes of disk, by teacher and in total."""

import math
from pathlib import Path

import pandas as pd

from kdlib.files import read_record, runs_root
from kdlib.sources import reads

GB = 1e9
COLUMNS = {
    "what": "what",
    "experiments": "experiments",
    "features_minutes": "features, min",
    "training_minutes": "training, min",
    "rest_minutes": "evaluation and the rest, min",
    "minutes": "together, min",
    "features_gb": "features, GB",
    "runs_gb": "runs, GB",
}


def spent(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a teacher, one for the decoded images that all teachers share, and the total; columns of COLUMNS.

    ``rest_minutes``: what the executed notebooks took beyond training, which is evaluation, figures and the start of
    the kernels. Numbers whose notebooks or stores are not on this machine are NaN, and not in the total. Attempts that
    failed or were repeated are not counted.
    """
    good = rows[rows.outcome == "ok"]
    lines = []
    for (teacher, dataset), part in good.groupby(["teacher", "dataset"], sort=False):
        stores = part.drop_duplicates(["store_seconds", "store_bytes"])  # experiments that share a store state the same
        training = part.groupby("run").train_seconds.max().sum()  # the longer training holds the shorter
        whole = sum(
            notebook_seconds(runs_root() / row.run / f"epoch-{row.epochs:04d}.ipynb") for row in part.itertuples()
        )
        lines.append(
            {
                "what": f"{teacher} on {dataset}",
                "experiments": len(part),
                "features_minutes": stores.store_seconds.sum() / 60,
                "training_minutes": training / 60,
                "rest_minutes": max(0.0, whole - training) / 60 if not math.isnan(whole) else math.nan,
                "features_gb": stores.store_bytes.sum() / GB,
                "runs_gb": folder_bytes((runs_root() / part.run.iloc[0]).parents[1]) / GB,
            }
        )
    lines += pixels(good)
    frame = pd.DataFrame(lines, columns=[name for name in COLUMNS if name != "minutes"])
    parts = ["features_minutes", "training_minutes", "rest_minutes"]
    frame.insert(5, "minutes", frame[parts].sum(axis=1))
    total = frame.drop(columns="what").sum(min_count=1).to_dict() | {"what": "together"}
    frame = pd.concat([frame, pd.DataFrame([total])], ignore_index=True)[list(COLUMNS)]
    return frame.astype({"experiments": "Int64"})


def notebook_seconds(path: Path) -> float:
    """How long papermill took to execute a notebook; NaN where there is none."""
    book = read_record(path) or {}
    seconds = book.get("metadata", {}).get("papermill", {}).get("duration")
    return math.nan if seconds is None else float(seconds)


def folder_bytes(folder: Path) -> float:
    """Bytes of the files below a folder; NaN where there is none."""
    if not folder.is_dir():
        return math.nan
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def pixels(good: pd.DataFrame) -> list[dict]:
    """One line per data set of which a study's networks read the decoded images, if their stores are here."""
    manifests = [read_record(path) or {} for path in sorted((runs_root() / "features").glob("*/manifest.json"))]
    networks = good[[reads(method) == "pixels" for method in good.method]]
    lines = []
    for dataset, part in networks.groupby("dataset", sort=False):
        prints, sizes = set(" ".join(part.fingerprints.unique()).split()), set(part.image_size)
        found = [
            manifest
            for manifest in manifests
            if (key := manifest.get("key", {})).get("kind") == "pixels"
            and key["dataset"] in prints
            and key["size"] in sizes
        ]
        if found:
            lines.append(
                {
                    "what": f"decoded images of {dataset}, for all teachers",
                    "training_minutes": 0.0,
                    "rest_minutes": 0.0,
                    "runs_gb": 0.0,
                    "features_minutes": sum(manifest["build_seconds"] for manifest in found) / 60,
                    "features_gb": sum(e["bytes"] for manifest in found for e in manifest["arrays"].values()) / GB,
                }
            )
    return lines
