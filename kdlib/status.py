"""What of a study is done, and why the rest is not: read from the files of its runs, never stored."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from kdlib.config import RunConfig
from kdlib.study import Planned, Study, said
from kdlib.utils import is_running, read_json, runs_root


class Job(NamedTuple):
    """A notebook and the configuration that it gets; or code that builds features."""

    name: str
    notebook: str
    config: RunConfig
    folder: Path
    keys: dict[str, str]  # of experiment.keys_of
    reads: str  # what the student reads: features, tokens or pixels
    why: str  # why it is not done
    build: str = ""  # the code that takes the notebook's place


def job_of(planned: Planned) -> Job:
    """An experiment as a job; needs its data and teacher."""
    from kdlib.experiment import keys_of, run_folder
    from kdlib.students import class_of

    config, keys = planned.config, keys_of(planned.config)
    folder = run_folder(config, keys["train"])
    why = lacks(folder, config.epochs, keys["evaluation"])
    return Job(planned.name, str(planned.notebook), config, folder, keys, class_of(config.method).reads, why)


def prepared(study: Study) -> tuple[list[Job], dict]:
    """The experiments as jobs, and the allocation."""
    return [job_of(planned) for planned in study.experiments()], allocation(study)


def allocation(study: Study) -> dict:
    """``gpus``, ``memory`` in bytes, and ``workers``: one a GPU, else what the cores and 2 GB each allow."""
    from kdlib import machine

    gpus, memory = machine.gpus(), machine.memory_bytes()
    fitting = min(machine.cores() // max(one.config.threads for one in study.experiments()), memory // 2**31)
    return {"gpus": gpus, "memory": memory, "workers": len(gpus) or max(1, fitting)}


def lacks(folder: Path, epochs: list[int], evaluation: str = "") -> str:
    """Why a run is not done; '' if it is. ``evaluation``: the key that its result must have; '' takes any."""
    record = read_json(folder / "result.json")
    if record is None or not (folder / "scores.npz").exists():
        return "not run yet"
    if missing := [str(budget) for budget in epochs if str(budget) not in record["budgets"]]:
        return f"{', '.join(missing)} epochs are not scored yet"
    if evaluation not in ("", record["keys"]["evaluation"]):
        return "the evaluation has changed"
    return "" if (folder / "notebook.ipynb").exists() else "its notebook was not executed to the end"


def state_of(folder: Path, why: str) -> tuple[str, str]:
    """(done, running, failed, out of memory or to do; and what there is to say of it)."""
    running, outcome = read_json(folder / "running.json"), read_json(folder / "outcome.json")
    if is_running(running):
        return "running", "epoch {epoch} of {of}, on {host} (process {pid}) since {since}".format(**running)
    if why and outcome:
        return outcome["outcome"], f"{outcome['error']} (limit {outcome['limit_gb']:.1f} GB); see {folder}"
    epochs = [int(path.stem.rpartition("-")[2]) for path in folder.glob("checkpoints/epoch-*.pt")]
    return "to do" if why else "done", f"{why}; epoch {max(epochs)} is there" if epochs and why else why


def lines(study: Study) -> Iterator[str]:
    """A line an experiment, and their counts. Checked against data, teachers and code where these are here."""
    root, unchecked = runs_root() / study.study, ""
    if (index := read_json(root / "index.json")) is None:
        yield f"The study '{study.study}' has not been run here: {len(study.experiments())} experiments are to do."
        return
    rows = [(Planned(Path(), RunConfig(**one["config"])), root / one["folder"]) for one in index["experiments"]]
    before = {one.name: (folder, lacks(folder, one.config.epochs)) for one, folder in rows}
    try:
        found = {job.name: (job.folder, job.why) for job in map(job_of, study.experiments())}
        for name in found.keys() & before.keys():
            if found[name][0] != before[name][0] and not found[name][0].exists():
                found[name] = found[name][0], "its parameters, data, teacher or code changed"
    except Exception as error:  # of a teacher, a data set, or code of the user's own
        found, unchecked = before, said(error)
    states = {name: state_of(*place) for name, place in found.items()}
    for name, (state, why) in states.items():
        yield f"{state:<14} {name}{why and f': {why}'}"
    yield ", ".join(f"{count} {state}" for state, count in Counter(state for state, _ in states.values()).items())
    if unchecked:
        yield f"Not checked against data, teachers and code: {unchecked}"


def duration(seconds: float) -> str:
    """As '0:12:30' or '16 days, 2:00:00'."""
    return str(timedelta(seconds=round(seconds)))
