"""The victim: runs a tiny study again and again, and says after each pass what was lost and what was wrong.

``python tests/faults/client.py FOLDER [SCHEDULER]``; a file FOLDER/stop ends it after the pass that it is in.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell

EPOCHS, METHODS, SEEDS = (1, 2), ("projection", "bottleneck"), (0, 1)

# Only one kernel at a time may be here for each training; a lock of its own, beside kdlib's, would tell.
ALONE = """
import fcntl, os, pathlib, time
alone = open(pathlib.Path(os.environ["KDLIB_RUNS"], f".alone-{method}-{seed}"), "w")
for attempt in range(200):
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
    except BlockingIOError:
        time.sleep(0.05)  # a killed one that the system has not cleared away yet
else:
    open(pathlib.Path(os.environ["KDLIB_RUNS"], "doubled"), "a").write(f"{method} {seed}\\n")
"""


def study_in(folder: Path):
    """The study file and the notebook of a folder, made where they are missing; the study, loaded."""
    from kdlib import study
    from kdlib.data import shapes
    from kdlib.study.file import notebooks_folder

    real, own = notebooks_folder(), folder / "notebooks"
    study.notebooks_folder = lambda: own
    data, file = folder / "shapes", folder / "faults.yaml"
    if not file.exists():
        shapes.ensure(shapes.ShapesSpec(0, 8, 3, 40, 20), root=data)
        own.mkdir(exist_ok=True)
        book = nbformat.read(real / "clip_coco.ipynb", as_version=4)
        kept = [cell for cell in book.cells if cell.id in ("parameters", "setup")]
        end = "result = experiment.finish(experiment.evaluate(), history)"
        made = (ALONE, "history = experiment.train()", end)
        book.cells = [kept[0], new_code_cell(made[0]), kept[1], *map(new_code_cell, made[1:])]
        nbformat.write(book, own / "clip_coco.ipynb")
        parameters = {"data_root": str(data), "batch_size": 16, "timed_calls": 5, "linear_probe": False}
        content = {
            "study": "faults",
            "title": "A study under fire",
            "notebooks": {"clip_coco": None},
            "methods": list(METHODS),
            "epochs": list(EPOCHS),
            "seeds": list(SEEDS),
            "parameters": parameters,
        }
        file.write_text(yaml.safe_dump(content))
    return study.load(file)


def numbers(config) -> dict:
    """Per experiment, all that must be the same on every machine and after every kill: weights and scores."""
    from kdlib import study
    from kdlib.experiment import run_dir

    found = {}
    for spec in study.experiments(config):
        result = run_dir(spec.config).result(spec.config.epochs)
        found[spec.name] = result and [result["checkpoint"]["model.safetensors"], result["scores"]]
    return json.loads(json.dumps(found))


def main() -> None:
    """Pass after pass; a line of JSON in FOLDER/passes.jsonl for each."""
    folder, scheduler = Path(sys.argv[1]), (sys.argv[2:] or [""])[0] or None
    os.environ |= {"KDLIB_RUNS": str(folder / "runs"), "KDLIB_REPORTS": str(folder / "reports")}
    from kdlib.study import grid

    config, reference = study_in(folder), folder / "reference.json"
    while not (folder / "stop").exists():
        states = grid.run(config, 2, scheduler)
        while [item for item in states if item.state == "failed"]:  # as whoever runs the same command again
            states = grid.run(config, 2, scheduler)
        now = numbers(config)
        if not reference.exists():
            reference.write_text(json.dumps(now))
        expected = json.loads(reference.read_text())
        told = {
            "lost": [f"{item.spec.name}: {item.state} {item.why}" for item in states if item.state != "done"],
            "wrong": [name for name in expected if expected[name] != now[name]],
        }
        with open(folder / "passes.jsonl", "a") as file:
            file.write(json.dumps(told) + "\n")
        for place in (folder / "runs" / "faults").iterdir():
            if place.is_dir():
                shutil.rmtree(place)
        shutil.rmtree(folder / "reports" / "faults", ignore_errors=True)
        if len(sys.argv) > 3:  # one pass only
            return


if __name__ == "__main__":
    main()
