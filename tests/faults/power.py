"""Power cuts: an experiment is run while every fsync is watched, then the disk is put together as a cut leaves it.

After a cut a file has what it had at its last fsync, or nothing; a folder has the names of its last fsync ('strict'),
or, as on systems that write names early, all names of the moment ('early'). Both are more than a real disk loses.

``python tests/faults/power.py FOLDER CUTS`` runs an experiment below FOLDER/runs and leaves FOLDER/cuts/NNNN-KIND.
"""

import json
import os
import random
import shutil
import sys
import threading
from pathlib import Path

EPOCHS = 2


class Recorder:
    """In the place of os.fsync: remembers what is on the disk for good, and makes cuts after some of the calls."""

    def __init__(self, root: Path, folder: Path, cuts: set[int]):
        self.root, self.folder, self.cuts = root, folder, cuts
        self.calls, self.content, self.names = 0, {}, {}
        self.hold, self.copies = folder / "hold", folder / "copies"
        self.hold.mkdir(parents=True)
        self.copies.mkdir()
        self.lock, self.real = threading.Lock(), os.fsync
        os.fsync = self

    def __call__(self, descriptor: int) -> None:
        self.real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not path.is_relative_to(self.root):
            return
        with self.lock:
            self.calls += 1
            number = os.fstat(descriptor).st_ino
            if path.is_dir():
                self.names[number] = self._names(path)
            else:
                copy = self.copies / str(self.calls)
                shutil.copyfile(path, copy)
                self._keep(path)
                self.content[number] = copy
            if self.calls in self.cuts:
                for kind in ("strict", "early"):
                    self._cut(self.root, self.folder / "cuts" / f"{self.calls:04d}-{kind}", kind)

    def _names(self, folder: Path) -> dict[str, tuple[int, bool]]:
        """Name -> (inode, whether it is a folder); files are kept, so that no inode gets a second life."""
        found = {}
        for entry in os.scandir(folder):
            found[entry.name] = entry.inode(), entry.is_dir()
            if entry.is_file():
                self._keep(Path(entry.path))
        return found

    def _keep(self, path: Path) -> None:
        held = self.hold / str(path.stat().st_ino)
        if not held.exists():
            os.link(path, held)

    def _cut(self, folder: Path, target: Path, kind: str, number: int | None = None) -> None:
        target.mkdir(parents=True)
        number = folder.stat().st_ino if number is None else number
        names = self.names.get(number, {}) if kind == "strict" else self._names(folder)
        for name, (inner, is_folder) in names.items():
            if is_folder:
                self._cut(folder / name, target / name, kind, inner)
            elif inner in self.content:
                shutil.copyfile(self.content[inner], target / name)
            else:
                (target / name).touch()  # its name came to the disk, its content did not


def config(data: str):
    """The experiment that the power is cut under."""
    from kdlib.config import RunConfig

    small = {"batch_size": 16, "timed_calls": 5, "linear_probe": False, "epochs": EPOCHS, "data_root": data}
    return RunConfig(teacher="clip", dataset="coco", study="power", **small)


def run(data: str) -> dict:
    """The experiment, from nothing or from what is there, to its notebook and page; its scores."""
    import nbformat

    from kdlib.experiment import Experiment
    from kdlib.files import rename, sync
    from kdlib.notebook.execute import publish
    from kdlib.study.file import ExperimentSpec

    spec = ExperimentSpec(notebook="clip_coco", config=config(data))
    experiment = Experiment.open(spec.config)
    history = experiment.train()
    result = experiment.finish(experiment.evaluate(), history)
    scratch, notebook = experiment.run.path.parent / ".notebook", experiment.run.notebook_path(EPOCHS)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A student")]), scratch)
    sync(scratch)
    rename(scratch, notebook)
    parameters = {"epochs": EPOCHS}
    job = {"run": str(experiment.run.path), "output": str(notebook), "report": str(spec.page), "parameters": parameters}
    if problem := publish(job):
        raise RuntimeError(problem["error"])
    return json.loads(json.dumps(result["scores"]))


def state(data: str):
    """What ``kdlib status`` says of the experiment."""
    from kdlib.study.file import ExperimentSpec
    from kdlib.study.status import Inspector

    return Inspector().state(ExperimentSpec(notebook="clip_coco", config=config(data)))


def main() -> None:
    """Once to count the calls, once more to cut after some of them."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    data = sys.argv[3]
    counted = json.loads((folder / "calls.json").read_text()) if (folder / "calls.json").exists() else 0
    chosen = set(random.Random(0).sample(range(1, counted + 1), min(count, counted))) if counted else set()
    root = folder / ("cut" if counted else "whole")
    (root / "runs").mkdir(parents=True)
    os.environ |= {"KDLIB_RUNS": str(root / "runs"), "KDLIB_REPORTS": str(root / "reports")}
    recorder = Recorder(root, folder / f"record-{root.name}", chosen)
    recorder.names[root.stat().st_ino] = recorder._names(root)
    scores = run(data)
    (folder / "calls.json").write_text(json.dumps(recorder.calls))
    (folder / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
