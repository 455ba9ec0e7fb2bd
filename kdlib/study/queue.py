"""Decides which job runs next, and how an ended job is judged: first by its files, then by its process's report."""

import shutil
import time
from collections import deque
from dataclasses import dataclass, field

from kdlib import study
from kdlib.files import runs_root, seal, write_json
from kdlib.keys import SCHEMA
from kdlib.progress import clock, say
from kdlib.sources import reads, views_of
from kdlib.study import forecast, status
from kdlib.study.file import ExperimentSpec, StudyConfig

RESUMES = 2  # how often an experiment whose kernel died is started again
LEFT = 10  # how often one whose worker went away is started again; after that, it probably kills its workers
SPACE_BYTES = 50 * 2**20  # disk space for an experiment, until one of its method is finished and its size is known
DISK_FULL = ("No space left on device", "Disk quota exceeded")
# How long an experiment takes, roughly, against a projection's: for the order (longest first keeps all slots busy to
# the end) and for the estimate of the rest before a method has been seen.
EFFORT = {"densenet": 3.0, "resnet": 3.0, "attention": 1.2, "cbam": 1.1}
AGAIN = "again"  # an outcome that is not recorded, unlike error, kernel_died, out_of_memory and ok


def decide(state: str, report: dict, tries: int) -> tuple[str, str]:
    """The outcome of an experiment ('ok', AGAIN, 'error', 'kernel_died' or 'out_of_memory'), and its error.

    ``state``: its state on disk now; ``report``: that of its job; ``tries``: how often it was started again before.
    """
    outcome, error = report["outcome"], report.get("error", "")
    if state == "done":
        return "ok", ""
    if outcome == "ok":
        return "error", "the notebook ended, but the result that it left is not this experiment's"
    if outcome == "abandoned":
        return (AGAIN, error or "its worker left it") if tries < LEFT else ("kernel_died", f"{tries + 1} times {error}")
    full = any(words in error for words in DISK_FULL)
    if (outcome == "kernel_died" or full) and tries < RESUMES:
        return AGAIN, "the disk is full" if full else f"its kernel died ({error})"
    return outcome, error


@dataclass
class Queue:
    """The experiments that are left, in chains that share checkpoints, and the feature stores that they wait for."""

    config: StudyConfig
    todo: list[status.ExperimentState]
    total: int
    slots: int
    retry: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)  # bytes that a finished experiment of a method wrote
    ended: int = 0

    def __post_init__(self):
        chains: dict[tuple, deque[status.ExperimentState]] = {}
        for item in self.todo:
            chains.setdefault(item.spec.chain, deque()).append(item)
        self.chains = sorted(chains.values(), key=lambda chain: -EFFORT.get(chain[0].spec.config.method, 1.0))
        trained = [chain[0].spec for chain in self.chains if any(item.missing != status.PAGE for item in chain)]
        self.unprepared = deque(dict.fromkeys(spec.sources for spec in trained))
        self.preparing: set[tuple] = set()
        self.busy: set[tuple] = set()
        self.waits_for_room = False

    @property
    def empty(self) -> bool:
        """Whether no experiment is left and no store is being built."""
        return not any(self.chains) and not self.unprepared and not self.preparing

    def next(self) -> dict | None:
        """A job that can start now; None when everything else waits for a running one, or for room on the disk."""
        if self.unprepared:
            sources = self.unprepared.popleft()
            self.preparing.add(sources)
            specs = [chain[0].spec for chain in self.chains if chain and chain[0].spec.sources == sources]
            tokens = any(reads(spec.config.method) == "tokens" for spec in specs)
            # Experiments of one teacher can differ in the images and views that they are trained on.
            differing = {(spec.config.extra_images, views_of(spec.config)): spec.config for spec in reversed(specs)}
            configs = [config.model_dump() for config in differing.values()]
            job = {"config": specs[0].config.model_dump(), "configs": configs, "tokens": tokens}
            return self._job(specs[0], "kdlib.study.prepare", "prepare") | job
        for chain in self.chains:
            if chain and chain[0].spec.chain not in self.busy and chain[0].spec.sources not in self.preparing:
                if not self._room_for(chain[0].spec):
                    return None
                self.busy.add(chain[0].spec.chain)
                return self._experiment_job(chain[0])
        return None

    def _job(self, spec: ExperimentSpec, module: str, kind: str) -> dict:
        words = "-".join(str(part) for part in (*spec.chain, kind)).replace(":", ".").replace("/", ".")
        return {
            "module": module,
            "kind": kind,
            "name": spec.name if kind != "prepare" else forecast.prepare_name(spec.sources),
            "sources": list(spec.sources),
            "chain": spec.chain,
            "threads": spec.config.threads,
            "device": spec.config.device,
            "log": str(runs_root() / self.config.study / "logs" / f"{words}.log"),
        }

    def _experiment_job(self, item: status.ExperimentState) -> dict:
        spec, epochs = item.spec, item.spec.config.epochs
        return self._job(spec, "kdlib.notebook.execute", f"epoch-{epochs:04d}") | {
            "notebook": str(study.notebooks_folder() / f"{spec.notebook}.ipynb"),
            "parameters": spec.parameters,
            "run": str(item.run.path),
            "scratch": str(item.run.path.parent),
            "output": str(item.run.notebook_path(epochs)),
            "failed_output": str(item.run.notebook_path(epochs, failed=True)),
            "report": str(spec.page),
            "page_only": item.missing == status.PAGE,
        }

    def _room_for(self, spec: ExperimentSpec) -> bool:
        """Whether the disk has room for what an experiment writes; if not, a message says so once."""
        needed = self.used.get(spec.config.folder, SPACE_BYTES)
        free = shutil.disk_usage(runs_root()).free
        if free < needed and not self.waits_for_room:
            say(
                f"{spec.name} needs about {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are left on the disk of "
                f"{runs_root()}; waiting for room."
            )
        self.waits_for_room = free < needed
        return not self.waits_for_room

    def handle(self, job: dict, report: dict, inspector: status.Inspector) -> None:
        """Take a job that ended: decide its outcome, record it and print it."""
        if job["kind"] == "prepare":
            return self._prepared(job, report)
        chain = next(chain for chain in self.chains if chain and chain[0].spec.chain == tuple(job["chain"]))
        spec = chain[0].spec
        self.busy.discard(spec.chain)
        now = inspector.state(spec)
        outcome, error = decide(now.state, report, self.retry.get(spec.name, 0))
        if outcome == AGAIN:
            self.retry[spec.name] = self.retry.get(spec.name, 0) + 1
            chain[0] = now
            say(f"           {spec.name}: {error}; going on from its checkpoint")
            return None
        chain.popleft()
        self.ended += 1
        self.seconds.setdefault(self._kind(spec), []).append(report["seconds"])
        if outcome == "ok":
            self.used[spec.config.folder] = written(now)
            forecast.took(self.config.study, spec.name, report["seconds"])
        self._record(now, outcome, error, job, inspector.keys(spec))
        self._say(spec, outcome, error, report["seconds"])
        return None

    def _prepared(self, job: dict, report: dict) -> None:
        self.preparing.discard(tuple(job["sources"]))
        if report["outcome"] == "ok":
            if report["built"]:
                forecast.took(self.config.study, job["name"], report["seconds"])
            say(f"           {job['name']} ready in {clock(report['seconds'])}")
        elif report["outcome"] == "abandoned":
            self.unprepared.append(tuple(job["sources"]))
        else:  # the experiments will meet the same error and keep it in their notebooks
            say(f"           {job['name']} failed: {report.get('error', '')}")

    def _record(self, item: status.ExperimentState, outcome: str, error: str, job: dict, keys: dict) -> None:
        """Write the outcome of an experiment without a result to where status and report find it."""
        epochs, config = item.spec.config.epochs, item.spec.config.model_dump()
        record = {"outcome": outcome, "config": config, "keys": keys, "error": error}
        if outcome == "out_of_memory" and item.missing == status.ALL:
            record |= {"schema": SCHEMA, "room": job.get("room", {})}
            write_json(item.run.result_path(epochs), seal(record))
        elif outcome != "ok":
            notebook = str(item.run.notebook_path(epochs, failed=True))
            write_json(item.run.failure_path(epochs), record | {"notebook": notebook})
        else:
            item.run.notebook_path(epochs, failed=True).unlink(missing_ok=True)
            item.run.failure_path(epochs).unlink(missing_ok=True)

    def _say(self, spec: ExperimentSpec, outcome: str, error: str, seconds: float) -> None:
        done = self.total - len(self.todo) + self.ended
        words = {"ok": "done", "out_of_memory": "OUT OF MEMORY"}.get(outcome, f"FAILED, {error[:120]}")
        say(
            f"[{done:>3}/{self.total}] {spec.name}: {words} in {clock(seconds)}   "
            f"{clock(time.perf_counter() - self.started)} elapsed, about {clock(self._rest())} left"
        )

    @staticmethod
    def _kind(spec: ExperimentSpec) -> tuple[str, str]:
        return spec.config.dataset, spec.config.method

    def _rest(self) -> float:
        """Seconds that the experiments left will take: the mean of their kind so far, else by their method's effort."""
        known = {kind: sum(times) / len(times) for kind, times in self.seconds.items()}
        unit = sum(mean / EFFORT.get(kind[1], 1.0) for kind, mean in known.items()) / len(known)
        kinds = [self._kind(item.spec) for chain in self.chains for item in chain]
        return sum(known.get(kind, unit * EFFORT.get(kind[1], 1.0)) for kind in kinds) / max(self.slots, 1)


def written(item: status.ExperimentState) -> int:
    """Bytes in the folder of an experiment's run."""
    return sum(path.stat().st_size for path in item.run.path.rglob("*") if path.is_file())
