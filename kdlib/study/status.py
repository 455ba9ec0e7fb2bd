"""The state of an experiment, derived from what is on disk each time it is asked, never stored."""

from dataclasses import dataclass

from kdlib import experiment, keys, sources, teachers
from kdlib.files import RunDir, read_json
from kdlib.keys import SCHEMA
from kdlib.study.file import ExperimentSpec


@dataclass(frozen=True)
class ExperimentState:
    """``state``: done, out_of_memory, stale, failed, resumable or absent; ``why``: in words."""

    spec: ExperimentSpec
    run: RunDir
    state: str
    why: str = ""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to run: a result, or out of memory."""
        return self.state in ("done", "out_of_memory")


class Inspector:
    """Computes the keys of experiments, loading each data set and hashing each teacher once."""

    def __init__(self):
        self._data: dict[tuple, dict] = {}
        self._teachers: dict[tuple, dict] = {}

    def keys(self, spec: ExperimentSpec) -> dict[str, str]:
        """The experiment's keys as they would be now. Raises DataError or TeacherError when they cannot be had."""
        config = spec.config
        data = (config.dataset, config.data_root, config.score_on, config.on_overlap)
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
        result, failure = run.result(epochs), run.failure(epochs)
        if result is not None and result["keys"]["experiment"] == keys["experiment"]:
            return ExperimentState(spec, run, "out_of_memory" if result["outcome"] == "out_of_memory" else "done")
        if failure is not None and failure["keys"]["experiment"] == keys["experiment"]:
            return ExperimentState(spec, run, "failed", f"{failure['error']} (see {failure['notebook']})")
        if result is not None:
            return ExperimentState(spec, run, "stale", "; ".join(differences(result, spec, keys)))
        record = read_json(run.path / "config.json")
        if record and record["train_key"] == keys["train"] and any(run.checkpoints.glob("epoch-*")):
            last = max(run.checkpoints.glob("epoch-*")).name
            return ExperimentState(spec, run, "resumable", f"{last} is there")
        return ExperimentState(spec, run, "absent")


def without_teacher(spec: ExperimentSpec) -> ExperimentState:
    """Of an experiment whose teacher is not here: its keys cannot be had, so what it left cannot be told from stale."""
    run = experiment.run_dir(spec.config)
    left = run.result(spec.config.epochs) is not None
    why = "its teacher is not here" + (", so nobody can say whether the result that is there is of it" if left else "")
    return ExperimentState(spec, run, "stale" if left else "absent", why)


def differences(result: dict, spec: ExperimentSpec, keys: dict[str, str]) -> list[str]:
    """Why a result is out of date, field by field."""
    now = spec.config.training()
    before = result["config"]
    if result.get("schema") != SCHEMA:
        return ["an earlier version wrote the result"]
    changed = [f"{name}: {before.get(name)!r} then, {now[name]!r} now" for name in now if before.get(name) != now[name]]
    if changed:
        return changed
    if result["keys"]["features"] != keys["features"]:
        return ["the teacher, the data, or the code that computes features changed"]
    if result["keys"]["train"] != keys["train"]:
        return ["the code of students, losses or training changed"]
    return ["the scored data or the code of the scores changed"]
