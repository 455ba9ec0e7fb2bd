"""What goes into a result beside the scores: sizes, times and versions, each with its unit."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np

import kdlib
from kdlib.device import latency
from kdlib.loader import Split
from kdlib.runs import project_root


def sizes(cost: dict, teacher: dict, reads: str, file: Path) -> dict[str, float]:
    """MB of 2^20 bytes and multiply-accumulates of one input.

    ``student_mb`` all that is trained, ``image_mb`` without its text side, ``deployed_mb`` all that inference runs,
    ``safetensors_bytes`` of the checkpoint's weights; ``image_macs`` and ``text_macs`` of the student alone and
    ``deployed_..._macs`` from pixels and from text.
    """
    needed = backbones(teacher, cost, reads)
    record = {
        "student_mb": cost["student_mb"],
        "image_mb": cost["student_mb"] - cost["text_mb"],
        "deployed_mb": cost["student_mb"] + sum(side["mb"] for side in needed.values()),
        "safetensors_bytes": file.stat().st_size,
    }
    for side in ("image", "text"):
        if side in cost:
            below = needed[side]["macs"] if side in needed else 0
            record |= {f"{side}_macs": cost[side]["macs"], f"deployed_{side}_macs": cost[side]["macs"] + below}
    return record


def backbones(teacher: dict, cost: dict, reads: str) -> dict[str, dict]:
    """The sides of the teacher that the student needs at inference: pixel students read no image features."""
    return {
        side: teacher[side]
        for side in ("image", "text")
        if side in cost and not (side == "image" and reads == "pixels")
    }


def times(cost: dict, teacher: dict, reads: str, history: list[dict]) -> dict:
    """Seconds an epoch (the first apart, median of the rest), milliseconds from pixels or text to embedding.

    A student that reads the teacher's features is timed with the backbone below it, the two measured apart.
    ``per_second`` is of batches of 32.
    """
    later = [record["seconds"] for record in history[1:]] or [history[0]["seconds"]]
    record: dict = {
        "seconds_per_epoch": float(np.median(later)),
        "first_epoch_seconds": history[0]["seconds"],
        "data_share": float(np.mean([record["data_share"] for record in history])),
        "teacher": "cached",
    }
    needed = backbones(teacher, cost, reads)
    for side in ("image", "text"):
        if side not in cost:
            continue
        for batch in ("batch_1", "batch_32"):
            own = cost[side][f"{batch}_ms"]
            below = [needed[side][f"{batch}_ms"]] if side in needed else []
            record[f"{side}_{batch}"] = latency(*below, own) | {"student_p50_ms": latency(own)["p50_ms"]}
        record[f"{side}_per_second"] = 32_000 / record[f"{side}_batch_32"]["p50_ms"]
    return record


def minutes_from_nothing(fit: Split, history: list[dict]) -> float:
    """Minutes from decoded data to this student: the stores of its training images, then its epochs."""
    stores = [fit.store, *([fit.pixels] if fit.pixels else [])]
    seconds = sum(store.manifest["build_seconds"] for store in stores) + sum(epoch["seconds"] for epoch in history)
    return seconds / 60


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    names = ("torch", "torchvision", "transformers", "numpy", "safetensors")
    return {"kdlib": kdlib.__version__, "commit": commit(), **{name: version(name) for name in names}}


def commit() -> str:
    """The git commit of the checkout, marked where files differ from it; '' outside a checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        root = Path(os.fspath(project_root()))
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
