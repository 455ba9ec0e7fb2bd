"""What of a study is done, and why the rest is not: read from the files of its runs, never stored."""

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from kdlib.config import RunConfig
from kdlib.study import Planned, Study, said
from kdlib.utils import read_json, runs_root

PAGE = "its page is missing"
CHANGED = "its parameters, data, teacher or code changed since the last run"


def duration(seconds: float) -> str:
    """In words: '40 s', '12 min', '3 h 20 min', '2 days 4 h'."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if hours >= 48:
        return f"{hours // 24} days {hours % 24} h"
    long = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return long if seconds >= 90 else f"{seconds:.0f} s"


def lacks(folder: Path, problem: str) -> str:
    """What a run is to make; '' if nothing. ``problem``: why its result does not count, of ``experiment.is_done``."""
    from kdlib.report import page_of

    if problem or not (folder / "notebook.ipynb").exists():
        return problem or "its notebook was not executed to the end"
    return "" if page_of(folder).exists() else PAGE


def in_vain(folder: Path, limit: float) -> str:
    """Why it is not tried again: it ran out of memory with as much as the ``limit`` in bytes (0: unknown)."""
    found = read_json(folder / "outcome.json") or {"outcome": ""}
    if found["outcome"] != "out of memory" or not limit or limit / 2**30 > found["limit_gb"]:
        return ""
    return f"out of memory with {found['limit_gb']:.1f} GB; it is tried again with a larger memory_gb"


def state_of(folder: Path, problem: str) -> tuple[str, str]:
    """(done, running, failed, out of memory or to do; and what there is to say of it)."""
    running, outcome = read_json(folder / "running.json"), read_json(folder / "outcome.json")
    if running and (running["host"] != socket.gethostname() or psutil.pid_exists(running["pid"])):
        return "running", "epoch {epoch} of {of}, on {host} (process {pid}) since {since}".format(**running)
    if not (reason := lacks(folder, problem)):
        return "done", ""
    if outcome:
        return outcome["outcome"], f"{outcome['error']} (limit {outcome['limit_gb']:.1f} GB); see {folder}"
    epochs = [int(path.stem.rpartition("-")[2]) for path in folder.glob("checkpoints/epoch-*.pt")]
    return "to do", f"{reason}; epoch {max(epochs)} is there" if epochs and problem else reason


def lines(study: Study) -> Iterator[str]:
    """A line an experiment, and their counts. Checked against data, teachers and code where these are here."""
    from kdlib.experiment import is_done, run_folder

    if (index := read_json(runs_root() / study.study / "index.json")) is None:
        yield f"The study '{study.study}' has not been run here: {len(study.experiments())} experiments are to do."
        return
    found, unchecked = {}, ""
    for one in index["experiments"]:
        folder = runs_root() / study.study / one["folder"]
        scored = (read_json(folder / "result.json") or {"budgets": {}})["budgets"]
        missing = [f"{epochs} epochs are not scored" for epochs in one["config"]["epochs"] if str(epochs) not in scored]
        found[Planned(Path(), RunConfig(**one["config"])).name] = folder, ", ".join(missing)
    try:
        now = {}
        for planned in study.experiments():
            folder = run_folder(planned.config)
            problem, (before, _) = is_done(planned.config, folder), found.get(planned.name, (folder, ""))
            moved = problem and folder != before and not folder.exists()
            now[planned.name] = folder, CHANGED if moved else problem
        found = now
    except Exception as error:  # of a teacher, a data set, or code of the user's own
        unchecked = said(error)
    states = {name: state_of(*place) for name, place in found.items()}
    for name, (state, why) in states.items():
        yield f"{state:<14} {name}{why and f': {why}'}"
    yield ", ".join(f"{count} {state}" for state, count in Counter(state for state, _ in states.values()).items())
    if unchecked:
        yield f"Not checked against data, teachers and code: {unchecked}"
