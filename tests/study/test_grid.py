"""The grid with real notebooks and kernels: done, repeated, failed, out of memory, killed."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from nbformat.v4 import new_code_cell

from kdlib import sources, study
from kdlib.experiment import run_dir
from kdlib.report.build import build
from kdlib.study import engine, grid, status
from kdlib.study.file import notebooks_folder

REAL = notebooks_folder()


@pytest.fixture
def small_study(tmp_path, small_shapes, monkeypatch):
    """``small_study(before, methods, epochs)``: a study over a copy of clip_coco whose training is preceded by code."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(study, "notebooks_folder", lambda: folder)

    def make(before: str = "", methods=("projection",), epochs=(1,), **fields) -> study.StudyConfig:
        book = nbformat.read(REAL / "clip_coco.ipynb", as_version=4)
        keep = [cell for cell in book.cells if cell.id in ("parameters", "setup")]
        train = "history = experiment.train()"
        end = "result = experiment.finish(experiment.evaluate(), history)"
        book.cells = keep + [
            new_code_cell(code, id=f"own-{row}") for row, code in enumerate((before or "pass", train, end))
        ]
        nbformat.write(book, folder / "clip_coco.ipynb")
        content = {
            "study": "small",
            "title": "A small study",
            "notebooks": {"clip_coco": None},
            "methods": list(methods),
            "epochs": list(epochs),
            "seeds": [0],
            "parameters": {"data_root": str(small_shapes), "batch_size": 16, "timed_calls": 5},
        }
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(content | fields))
        return study.load(tmp_path / "small.yaml")

    return make


def states(items) -> list[str]:
    return [item.state for item in items]


def test_grid__runs_what_is_missing_in_parallel_and_then_nothing(small_study, capfd, monkeypatch):
    config = small_study(methods=("projection", "bottleneck"), epochs=(1, 2))
    assert states(grid.run(config, workers=2)) == ["done"] * 4
    printed = capfd.readouterr().err
    assert "[  4/4]" in printed and "elapsed, about" in printed
    monkeypatch.setattr(engine, "run_job", lambda job: pytest.fail(f"ran {job['name']} again"))
    assert states(grid.run(config, workers=1)) == ["done"] * 4
    results = sorted(Path(item.run.path) for item in map(status.Inspector().state, study.experiments(config)))
    first = json.loads((results[0] / "result-0002.json").read_text())
    assert len(first["history"]) == 2 and first["history"][0]["epoch"] == 1
    for experiment in study.experiments(config):
        page = experiment.page.read_text()
        assert "<script" not in page and "<link" not in page and "<iframe" not in page
        assert set(re.findall(r'src="(.{5})', page)) <= {"data:"}  # nothing is fetched


def test_grid__what_is_missing_of_a_finished_experiment_is_made_again_without_training(small_study, monkeypatch):
    config = small_study()
    spec = study.experiments(config)[0]
    (item,) = grid.run(config, workers=1)
    scores, weights = item.run.result(1)["scores"], (item.run.checkpoints / "epoch-0001").stat().st_ino
    look = status.Inspector().state

    item.run.notebook_path(1).unlink()  # as after a kill between the result and the notebook's end
    spec.page.unlink()
    assert (look(spec).state, look(spec).missing) == ("resumable", status.NOTEBOOK)
    assert states(grid.run(config, workers=1)) == ["done"]
    assert item.run.result(1)["scores"] == scores and item.run.result(1)["history"][-1]["epoch"] == 1
    assert (item.run.checkpoints / "epoch-0001").stat().st_ino == weights

    spec.page.write_text(spec.page.read_text()[:2000])  # as after a power cut on a system that orders nothing
    assert look(spec).missing == status.PAGE
    executed = item.run.notebook_path(1).stat().st_mtime_ns
    assert states(grid.run(config, workers=1)) == ["done"]
    assert item.run.notebook_path(1).stat().st_mtime_ns == executed


def test_grid__a_score_that_was_edited_is_named_and_made_again(small_study):
    config = small_study()
    (item,) = grid.run(config, workers=1)
    path, whole = item.run.result_path(1), item.run.result(1)
    sound = '"student_mb": '
    edited = [path.read_text().replace(sound, sound + value) for value in ("9", 'NaN, "was": ', '"text", "was": ')]
    for content in ("{}", "[]", "", *edited):
        path.write_text(content)
        found = status.Inspector().state(item.spec)
        assert found.state == "damaged" and path.name in found.why, content
    assert states(grid.run(config, workers=1)) == ["done"]
    assert item.run.result(1)["scores"] == whole["scores"]
    item.run.scores_path(1).write_bytes(item.run.scores_path(1).read_bytes()[:100])
    assert "scores-0001.npz is missing or truncated" in status.Inspector().state(item.spec).why


def test_grid__features_that_were_there_do_not_change_what_building_them_took(small_study, tmp_path):
    def taken():
        times = json.loads((tmp_path / "runs/small/times.json").read_text())
        return next(seconds for job, seconds in times.items() if job.startswith("features of"))

    grid.run(small_study(), workers=1)
    first = taken()
    assert states(grid.run(small_study(methods=("projection", "bottleneck")), workers=1)) == ["done", "done"]
    assert taken() == first > 0


def test_grid__a_failing_experiment_keeps_its_traceback_and_is_tried_again(small_study):
    config = small_study(before="1 / 0", methods=("projection", "bottleneck"))
    items = grid.run(config, workers=1)
    assert states(items) == ["failed", "failed"]
    assert "ZeroDivisionError" in items[0].why
    assert "ZeroDivisionError" in items[0].run.notebook_path(1, failed=True).read_text()
    config = small_study(methods=("projection", "bottleneck"))
    items = grid.run(config, workers=1)
    assert states(items) == ["done", "done"]
    assert not items[0].run.notebook_path(1, failed=True).exists()


def test_grid__out_of_memory_is_a_result_and_the_grid_goes_on(small_study):
    before = "if method == 'projection':\n    raise MemoryError('no room')"
    items = grid.run(small_study(before=before, methods=("projection", "bottleneck")), workers=1)
    assert states(items) == ["out_of_memory", "done"]
    assert items[0].run.result(1)["outcome"] == "out_of_memory"
    room = items[0].run.result(1)["room"]
    look = [status.Inspector(given).state(items[0].spec) for given in (room, room | {"memory": room["memory"] + 1})]
    assert states(look) == ["out_of_memory", "resumable"] and "has more now" in look[1].why


def test_grid__a_killed_kernel_goes_on_from_its_checkpoint(small_study, tmp_path):
    mark = tmp_path / "died"
    before = f"""import os, pathlib, signal
from kdlib import checkpoints
save = checkpoints.save
def die_after_the_first(*arguments):
    folder = save(*arguments)
    if not pathlib.Path({str(mark)!r}).exists():
        pathlib.Path({str(mark)!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return folder
checkpoints.save = die_after_the_first"""
    items = grid.run(small_study(before=before, epochs=(2,)), workers=1)
    assert mark.exists() and states(items) == ["done"]


def test_grid__changed_parameters_make_an_experiment_stale_and_say_why(small_study):
    grid.run(small_study(), workers=1)
    changed = small_study(parameters=small_study().parameters | {"batch_size": 8})
    item = status.Inspector().state(study.experiments(changed)[0])
    assert item.state == "stale" and item.why == "batch_size: 16 then, 8 now"


def test_grid__two_at_once_on_one_study_are_refused(small_study, tmp_path):
    from filelock import FileLock

    config = small_study()
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(RuntimeError, match="Another process is running the study 'small'"):
        grid.run(config, workers=1)


def test_grid__a_parameter_that_the_notebook_lacks_is_an_error(small_study):
    from kdlib.notebook.execute import refuse_unknown

    small_study()
    notebook = study.notebooks_folder() / "clip_coco.ipynb"
    with pytest.raises(ValueError, match=r"has no parameters epoch\. It has: .*epochs"):
        refuse_unknown(str(notebook), {"epoch": 5})


@pytest.mark.parametrize(("workers", "early"), [(1, False), (2, False), (2, True)])
def test_grid__asked_to_end_it_leaves_no_process_and_the_next_run_goes_on(small_study, tmp_path, workers, early):
    methods, pids = ("projection", "bottleneck"), tmp_path / "pids"
    pids.mkdir()
    wait = f"import os, pathlib, time\npathlib.Path({str(pids)!r}, str(os.getpid())).touch()\ntime.sleep(600)"
    small_study(before=wait, methods=methods)
    code = (
        "import pathlib, sys; from kdlib import cli, study; "
        f"study.notebooks_folder = lambda: pathlib.Path({str(tmp_path / 'notebooks')!r}); cli.main()"
    )
    command = [sys.executable, "-c", code, "run", str(tmp_path / "small.yaml"), "--workers", str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        if early:  # while the first jobs are being started
            until(lambda: (tmp_path / "runs/small/logs").exists() or process.poll() is not None, 120)
        else:
            until(lambda: len(list(pids.iterdir())) == workers or process.poll() is not None, 120)
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        printed = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode not in (0, None) and "Traceback" not in printed, printed
    until(lambda: not any(map(alive, [*family, *(int(path.name) for path in pids.iterdir())])), 20)
    assert states(grid.run(small_study(methods=methods), workers=1)) == ["done", "done"]


def alive(process: psutil.Process | int) -> bool:
    """Whether a process still does something; one that nobody has waited for does not."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition, seconds: float) -> None:
    """Wait for it; a machine may be busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_run__and_its_report_open_each_data_set_once(small_study, monkeypatch):
    """In the process that runs them; each job has its own."""
    opened = []
    load = sources.load_data
    monkeypatch.setattr(sources, "load_data", lambda *given: opened.append(given) or load(*given))
    inspector, config = status.Inspector(), small_study()
    grid.run(config, 1, inspector=inspector)
    build(config, study.experiments(config), run_dir, inspector)
    assert len(opened) == 1
