"""Finished runs as tables, which need neither data nor teacher. docs/results.md explains their columns."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.utils import is_running, read_json, runs_root

KEY = ["teacher", "dataset", "student", "method", "variant", "role", "seed", "epochs"]
NUMBERS = ["student_mb", "inference_mb", "teacher_mb", "epoch_s", "train_s", "image_ms", "total_min",
           "test_images", "train_images", "images_seen", "lr_peak"]  # fmt: skip
TEXTS = ["primary", "outcome", "error", "failed_checks", "saturated", "checkpoint", "untrained", "data", "score_on",
         "objective", "leakage", "hardware", "commit", "edited", "finished", "key"]  # fmt: skip
# Identifiers and their names in tables and figures, in the paper's order.
LABELS = {"dino": "DINO", "dinov2": "DINOv2", "dinov3": "DINOv3", "beit": "BEiT", "clip": "CLIP", "siglip2": "SigLIP 2",
          "blip": "BLIP", "tinyimagenet": "Tiny ImageNet", "coco": "COCO", "projection": "Projection",
          "bottleneck": "Bottleneck", "attention": "Attention", "cbam": "CBAM", "resnet": "ResNet",
          "densenet": "DenseNet", "mobilenet": "MobileNetV3", "self_contained": "self-contained"}  # fmt: skip


@lru_cache(maxsize=8192)
def _read(file: Path, array: str, _written: int):
    if not array:
        return read_json(file)
    with np.load(file) as arrays:
        return arrays[array].astype(np.float64) if array in arrays else None


def record(folder: str | Path) -> dict | None:
    """The result of a run's folder; None where it has none."""
    file = Path(folder, "result.json")
    return _read(file, "", file.stat().st_mtime_ns) if file.exists() else None


def folders(study: str, path: str | Path | None = None, all: bool = False) -> list[tuple[Path, dict, list[int], bool]]:
    """(Folder, configuration, budgets, whether the study's index lists it) of each run of a study."""
    root = Path(path or runs_root()).expanduser().absolute() / study
    index = read_json(root / "index.json")
    listed = {root / run["folder"]: run["config"] for run in index["experiments"]} if index else {}
    found = [(folder, config, config["epochs"], True) for folder, config in listed.items()]
    others = {file.parent for file in root.glob("*/*/seed*/result.json")} - set(listed) if all or not index else ()
    for folder in sorted(others):
        result = record(folder)
        found.append((folder, result["config"], sorted(map(int, result["budgets"])), not index))
    if not found:
        known = sorted(place.name for place in root.parent.glob("*") if any(place.glob("*/*/seed*")))
        raise FileNotFoundError(f"{root} has no runs. Studies with runs there: {', '.join(known) or 'none'}.")
    return found


def key_of(config: dict, result: dict | None, epochs: int) -> dict:
    """The key columns of a run; ``student`` is its name in tables and figures."""
    label = lambda name: LABELS.get(name, name.split(":")[-1].replace("_", " "))  # noqa: E731
    title = result["data"][config["score_on"]]["title"] if result else Path(config["data_root"]).name
    supervised = "supervised" if config["objective"] == "supervised" else ""
    role = result["role"] if result else supervised or ("ablation" if config["variant"] else "student")
    student = ", ".join(filter(None, (label(config["method"]), label(config["variant"] or supervised))))
    names = {"teacher": label(config["teacher"]), "dataset": LABELS.get(config["dataset"], title), "student": student}
    return {name: config.get(name) for name in KEY} | names | {"role": role, "epochs": epochs}


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Teachers, data sets and students as categories in the paper's order, so that no cell has to sort."""
    places = {label: place for place, label in enumerate(LABELS.values())}
    for column in ("dataset", "teacher", "student"):
        names = sorted(set(frame[column]), key=lambda name: ("," in name, places.get(name.split(",")[0], 99), name))
        frame[column] = pd.Categorical(frame[column], names, ordered=True)
    keys = [name for name in ("teacher", "dataset", "student", "epochs", "seed") if name in frame]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def runs(study: str, path: str | Path | None = None, all: bool = False) -> pd.DataFrame:
    """A row a run and budget, also of what failed or was not run: sizes in MB, times, outcome, where it was made.

    ``path``: where runs lie, by default runs/. ``all``: also what the study no longer lists, as runs of other code.
    """
    rows = []
    for folder, config, budgets, listed in folders(study, path, all):
        result = record(folder)
        for epochs in budgets:
            done = result and str(epochs) in result["budgets"]
            found = _measured(result, epochs) if done else _outcome(folder)
            rows.append(key_of(config, result, epochs) | found | {"current": listed, "path": str(folder)})
    frame = pd.DataFrame(rows).reindex(columns=[*KEY, *TEXTS[:5], *NUMBERS, *TEXTS[5:], "current", "path"])
    return ordered(frame.astype(dict.fromkeys(NUMBERS, float)).fillna(dict.fromkeys(TEXTS, "")))


def _measured(result: dict, epochs: int) -> dict:
    config, time, data = (result[name] for name in ("config", "time", "data"))
    own = [epoch for epoch in result["history"] if epoch.get("cooldown", epochs) == epochs]
    last = [epoch for epoch in own if epoch["epoch"] <= epochs or "cooldown" in epoch][-1]
    return result["size"] | {name: result[name] for name in ("primary", "outcome", "finished")} | {
        "failed_checks": "; ".join(result["failed_checks"]), "saturated": " ".join(result["saturated"]),
        "epoch_s": time["epoch_s"], "train_s": time["train_s"][str(epochs)],
        "image_ms": time["image_32"]["p50_ms"] / 32, "total_min": time["total_min"][str(epochs)],
        "checkpoint": result["teacher"]["source"], "untrained": ", ".join(result["teacher"]["untrained"]),
        "data": "synthetic" if config["data_root"].startswith("shapes") else Path(config["data_root"]).name,
        "score_on": config["score_on"], "test_images": data[config["score_on"]]["images"],
        "train_images": data.get("train", data["fit"])["images"], "images_seen": last.get("images_seen"),
        "lr_peak": config["lr_peak"], "objective": "+".join(result["objective"]),
        "leakage": result["leakage"]["level"], "hardware": result["hardware"]["name"],
        "key": result["keys"]["train"][:8], "edited": "; ".join(result["edited"]),
        "commit": result["versions"]["commit"],
    }  # fmt: skip


def _outcome(folder: Path) -> dict:
    now, ended = (read_json(folder / f"{name}.json") for name in ("running", "outcome"))
    return {"outcome": "running"} if is_running(now) else ended or {"outcome": "not run"}


def results(study: str, path: str | Path | None = None, all: bool = False) -> pd.DataFrame:
    """A row a score: key columns, encoder (the student and its controls), metric, value, low, high (95 %), primary.

    The supervised baseline is an encoder of each student with the same network, as teacher, pca and random_init are.
    """
    places = [(folder, epochs) for folder, _, budgets, _ in folders(study, path, all) for epochs in budgets]
    rows = [row for folder, epochs in places for row in scores_of(record(folder), folder, epochs)]
    columns = [*KEY, "encoder", "metric", "value", "low", "high", "primary", "key", "path"]
    scores = pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})
    supervised, run = scores.role == "supervised", ["path", "epochs"]
    same = ["teacher", "dataset", "method", "seed", "epochs"]  # of a student and its supervised baseline
    baselines = scores[supervised & (scores.encoder == "student")].drop_duplicates([*same, "metric"])
    baselines = baselines.drop(columns=["student", "variant", "role"]).assign(encoder="supervised")
    beside = scores.loc[~supervised, KEY].drop_duplicates().merge(baselines, on=same)
    # A supervised run without a student beside it, as one of more epochs, keeps rows of its own.
    taken = supervised & scores.set_index(run).index.isin(beside.set_index(run).index)
    return ordered(pd.concat([scores[~taken], beside[columns]]))


def scores_of(result: dict | None, folder: str | Path, epochs: int) -> list[dict]:
    """The rows of :func:`results` of one run and budget; none where it is not scored."""
    if result is None or str(epochs) not in result["budgets"]:
        return []
    key, run = key_of(result["config"], result, epochs), {"key": result["keys"]["train"][:8], "path": str(folder)}
    return [
        key | {"encoder": encoder, "metric": metric, "value": value, "low": low, "high": high,
               "primary": metric == result["primary"]} | run
        for encoder, scores in (result["budgets"][str(epochs)]["scores"] | result["controls"]).items()
        for metric, (value, low, high) in scores.items()
    ]  # fmt: skip


def replicates(folder: str | Path, encoder: str, metric: str, epochs: int) -> np.ndarray | None:
    """(R,) a score on each resample of the test images, the same for every encoder; None where it was not resampled."""
    encoder = "student" if encoder == "supervised" else encoder  # its rows have the supervised run's path
    scores, controls = Path(folder, "scores.npz"), Path(folder, record(folder)["controls_file"])
    for file, name in ((scores, f"{epochs}/{encoder}"), (scores, encoder), (controls, encoder)):
        if (values := _read(file, f"{name}/replicates/{metric}", file.stat().st_mtime_ns)) is not None:
            return values
    return None
