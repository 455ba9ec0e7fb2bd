"""The state of an experiment. It is derived from the files each time, and never stored."""

from dataclasses import dataclass
from pathlib import Path

from kdlib import experiment, keys, sources, teachers
from kdlib.files import RunDir, read_record
from kdlib.keys import SCHEMA
from kdlib.notebook.page import made_from
from kdlib.notebook.worker import tail
from kdlib.study.file import ExperimentSpec

# Which of an experiment's files a run has to make: all, the notebook and its page, or the page alone.
ALL, NOTEBOOK, PAGE = "all", "notebook", "page"


@dataclass(frozen=True)
class ExperimentState:
    """``state``: done, out_of_memory, stale, damaged, failed, running, resumable or absent; ``why``: in words.

    ``missing``: what has to be made, one of ALL, NOTEBOOK and PAGE.
    """

    spec: ExperimentSpec
    run: RunDir
    state: str
    why: str = ""
    missing: str = ALL

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to run: result, notebook and page, or out of memory with no more to give."""
        return self.state in ("done", "out_of_memory")


class Inspector:
    """Computes the keys of experiments, loading each data set and hashing each teacher once.

    ``room``: kind of memory -> bytes that an experiment would get now. One that ran out of memory with less can be
    tried again; without ``room`` it counts as finished.
    """

    def __init__(self, room: dict[str, int] | None = None):
        self.room = room or {}
        self._data: dict[tuple, dict] = {}
        self._teachers: dict[tuple, dict] = {}

    def keys(self, spec: ExperimentSpec) -> dict[str, str]:
        """The experiment's keys as they would be now. Raises DataError or TeacherError when they cannot be had."""
        config = spec.config
        # All that load_data depends on; with a cooldown it reads dev too.
        read = (config.dataset, config.data_root, config.score_on, config.on_overlap, config.extra_images)
        data = (*read, config.cooldown > 0)
        if data not in self._data:
            self._data[data] = sources.load_data(config)
        teacher = (config.teacher, sources.source(config), config.revision)
        if teacher not in self._teachers:
            self._teachers[teacher] = teachers.describe(*teacher)
        return keys.experiment_keys(config, self._data[data], self._teachers[teacher])

    def state(self, spec: ExperimentSpec) -> ExperimentState:
        """What is known of an experiment on disk."""
        run, epochs = experiment.run_dir(spec.config), spec.config.epochs
        keys = self.keys(spec)
        record = run.result(epochs)
        result = record if is_of(record, keys) and record.get("schema") == SCHEMA else None
        if result is not None and result["outcome"] == "ok" and not (lack := lacking(spec, run, result))[0]:
            return ExperimentState(spec, run, "done")
        if (writer := run.writer()) is not None:
            return ExperimentState(spec, run, "running", being_written(run, writer))
        if problem := run.result_problem(epochs):
            return ExperimentState(spec, run, "damaged", f"{problem}; the next run makes it again")
        failure = run.failure(epochs)
        failed = f"{failure['error']} (see {failure['notebook']})" if is_of(failure, keys) else ""
        if result is not None and result["outcome"] == "out_of_memory":
            return self._out_of_memory(spec, run, result)
        if result is not None:
            missing, why = lack
            return ExperimentState(spec, run, "failed" if failed else "resumable", failed or why, missing)
        if failed:
            return ExperimentState(spec, run, "failed", failed)
        if record is not None:
            return ExperimentState(spec, run, "stale", "; ".join(differences(record, spec, keys)))
        if run.owner == keys["train"] and (last := last_epoch(run)):
            return ExperimentState(spec, run, "resumable", f"epoch {last} is there")
        return ExperimentState(spec, run, "absent")

    def _out_of_memory(self, spec: ExperimentSpec, run: RunDir, result: dict) -> ExperimentState:
        had = result.get("room") or {}
        more = [
            f"{had.get(kind, 0) / 2**30:.1f} GB of {kind} then, {size / 2**30:.1f} now"
            for kind, size in self.room.items()
            if size > had.get(kind, 0)
        ]
        if more:
            why = f"it ran out of memory, and has more now: {', '.join(more)}"
            return ExperimentState(spec, run, "resumable", why)
        return ExperimentState(spec, run, "out_of_memory", result.get("error", ""))


def is_of(record: dict | None, keys: dict[str, str]) -> bool:
    """Whether a result or failure is that of the experiment with these keys."""
    found = (record or {}).get("keys")
    return isinstance(found, dict) and found.get("experiment") == keys["experiment"]


def lacking(spec: ExperimentSpec, run: RunDir, result: dict) -> tuple[str, str]:
    """What must be made again beside a good result: ALL, NOTEBOOK or PAGE, and why; two '' if nothing is missing.

    It compares sizes, and the digests by which the files name each other; ``kdlib verify`` hashes the content.
    """
    epochs = spec.config.epochs
    for name, entry in result["files"].items():
        path = run.path / name
        if not path.exists() or path.stat().st_size != entry["bytes"]:
            return ALL, f"{path.name} is missing or truncated"
    published, notebook = read_record(run.published_path(epochs)) or {}, run.notebook_path(epochs)
    if published.get("result") != result["digest"]:
        return NOTEBOOK, "the result is there, its notebook is not"
    if not notebook.exists() or notebook.stat().st_size != published.get("bytes"):
        return NOTEBOOK, f"{notebook.name} is missing or altered"
    if made_from(spec.page) != published.get("notebook"):
        return PAGE, "result and notebook are there, their page is not"
    return "", ""


def last_epoch(run: RunDir) -> int:
    """The last epoch that has a checkpoint; 0 if none has."""
    names = (path.name.removeprefix("epoch-") for path in run.checkpoints.glob("epoch-*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def being_written(run: RunDir, writer: dict) -> str:
    """Who writes a run's folder, in words."""
    last = last_epoch(run)
    trained = f", epoch {last} is done" if last else ""
    return (
        f"{writer.get('doing')} on {writer.get('host')} (process {writer.get('process')}) since "
        f"{writer.get('since')}{trained}"
    )


def without_teacher(spec: ExperimentSpec) -> ExperimentState:
    """The state of an experiment whose teacher is not here. Its keys are unknown, so a result counts as stale."""
    run = experiment.run_dir(spec.config)
    left = run.result(spec.config.epochs) is not None
    why = "its teacher is not here" + (", so it is not known whether its result is current" if left else "")
    return ExperimentState(spec, run, "stale" if left else "absent", why)


def progress_of(job: dict) -> str:
    """How far a running job is: what its run's folder says, else the last line of its log."""
    if "run" in job and (writer := (run := RunDir(Path(job["run"]))).writer()) is not None:
        return f"{writer.get('doing')}, epoch {last_epoch(run)} of {job['parameters']['epochs']} is done"
    log = Path(job["log"])
    return tail(log, 100) if log.exists() and log.stat().st_size else "starting"


def differences(result: dict, spec: ExperimentSpec, keys: dict[str, str]) -> list[str]:
    """Why a result is out of date, field by field."""
    now = spec.config.training()
    before = result.get("config") or {}
    if result.get("schema") != SCHEMA or not result.get("keys"):
        return ["an earlier version wrote the result"]
    changed = [f"{name}: {before.get(name)!r} then, {now[name]!r} now" for name in now if before.get(name) != now[name]]
    if changed:
        return changed
    if result["keys"]["features"] != keys["features"]:
        return ["the teacher, the data, or the code that computes features changed"]
    if result["keys"]["train"] != keys["train"]:
        return ["the code of students, losses or training changed"]
    return ["the scored data or the code of the scores changed"]
