"""What goes wrong on the way from the hub to a finished study: each time a clear message, and the next run goes on."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rehearsal.stage import Stage

from kdlib import teachers


@dataclass(frozen=True)
class Fault:
    """``breaks(stage, family)`` breaks the family's repository or the machine; it may return words before the command.

    ``says`` is what the user must be told, of a run that stops or, where it ``goes_on``, of another way that it took.
    """

    name: str
    family: str
    breaks: Callable[[Stage, str], tuple[str, ...] | None]
    says: str
    goes_on: bool = False


@dataclass(frozen=True)
class Row:
    """How it went: what was wrong ('' if nothing), the message, and the seconds of both runs."""

    fault: str
    wrong: str
    message: str
    seconds: float
    again: float


def pinned_gone(stage: Stage, family: str) -> None:
    """The branch of the pull request was deleted, and its commit with it: only main's pickle is left."""
    stage.repository(family).forget(teachers.TEACHERS[family].REVISION)


def dead_in_a_file(stage: Stage, family: str) -> None:
    """Every connection ends in the middle of the weights."""
    repository = stage.repository(family)
    repository.dies_at, repository.deaths = {"model.safetensors": _weights(stage, family).stat().st_size // 2}, -1


def gated(stage: Stage, family: str) -> None:
    """The owner asks for a login."""
    stage.repository(family).gated = True


class _Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def hostile(stage: Stage, family: str) -> None:
    """Only main is left, and its pickle runs a command."""
    pinned_gone(stage, family)
    folder = stage.folder / "published" / family / "hostile"
    if not folder.exists():
        ignored = shutil.ignore_patterns("*.bin", "*.safetensors")
        shutil.copytree(stage.folder / "published" / family / "main", folder, ignore=ignored)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": _Evil()}))
    stage.repository(family).commit(folder, "main")


def small_disk(stage: Stage, family: str) -> tuple[str, ...]:
    """The cache is on a disk that holds half of the weights: a mount of its own, which ends with the command."""
    stage.home.mkdir(parents=True, exist_ok=True)
    room = _weights(stage, family).stat().st_size // 2
    return "unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={room} tmpfs "$HF_HOME" && exec "$@"', "sh"


def _weights(stage: Stage, family: str) -> Path:
    return stage.folder / "published" / family / "request" / "model.safetensors"


FAULTS = (
    Fault(
        "the pinned commit is gone",
        "beit",
        pinned_gone,
        says=r"pinned commit .* is gone .* main took its place",
        goes_on=True,
    ),
    # The digest of what was published is known of CLIP, and these random weights have another.
    Fault("wrong digest", "clip", pinned_gone, says=r"clip-vit-base-patch32: the SHA-256 of .*It was not loaded"),
    Fault("the hub dies in the middle of a file", "clip", dead_in_a_file, says=r"clip-vit-base-patch32 .*run again"),
    Fault("gated (401)", "clip", gated, says=r"clip-vit-base-patch32 .*is gated.*hf auth login"),
    Fault("hostile .bin", "beit", hostile, says=r"pytorch_model\.bin"),
    Fault("no disk left", "clip", small_disk, says=r"needs .* MB in .*Make room|disk .*is full"),
)


def rehearse(stage: Stage, fault: Fault, study: Path) -> Row:
    """Run ``study`` with the fault, and once more without it; what was not as it must be is in the row."""
    stage.forget_downloads()
    stage.publish(fault.family)
    results = stage.runs / study.stem
    shutil.rmtree(results, ignore_errors=True)
    wrong = []
    first = stage.kdlib("run", study, "--workers", "1", before=fault.breaks(stage, fault.family) or ())
    message = next((line for line in first.output.splitlines() if re.search(fault.says, line)), "")
    wrong += ["no clear message"] * (not message)
    made = list(results.rglob("result-*.json"))
    if fault.goes_on:
        wrong += [f"exit code {first.code}"] * (first.code != 0) + ["no result"] * (not made)
    else:
        wrong += ["exit code 0"] * (first.code == 0) + ["a result"] * bool(made)
    wrong += ["a traceback"] * ("Traceback (most recent call last)" in first.output)
    wrong += ["code of the checkpoint ran"] * bool(list(stage.folder.rglob("pwned")))
    stage.publish(fault.family)
    second = stage.kdlib("run", study, "--workers", "1")
    made = list(results.rglob("result-*.json"))
    wrong += [f"exit code {second.code} of the run after"] * (second.code != 0) + ["no result after"] * (not made)
    return Row(fault.name, "; ".join(wrong), message.strip(), first.seconds, second.seconds)
