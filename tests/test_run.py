"""The engine with real notebooks, kernels and workers; data, teachers and training are replaced (small_study.py)."""

import os
import signal
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import small_study
from small_study import alive, command, until

from kdlib import machine, status
from kdlib import run as engine
from kdlib.report import page_of
from kdlib.study import load
from kdlib.utils import read_json, reports_root, runs_root, write_json
from kdlib.worker import _parameters, token

ALL = ["projection", "bottleneck", "attention", "cbam", "resnet", "densenet"]
DONE = ["notebook.ipynb", "result.json", "scores.npz"]
TROUBLE = """
if method == "bottleneck" and not (here / "fixed").exists():
    raise ValueError("the loss is not finite")
if method == "attention" and once("kernel died"):
    os.kill(os.getpid(), signal.SIGKILL)
if method == "cbam" and once("worker died"):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if method == "resnet":
    block = bytearray(400 * 2**20)
    if not (here / "fixed").exists():
        time.sleep(60)
if method == "densenet" and not (here / "fixed").exists():
    raise MemoryError("can't allocate memory")
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """One study, run four times: with trouble; with it fixed; with more memory and without a page; and once more."""
    root = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(root / "runs"))
        patch.setenv("KDLIB_REPORTS", str(root / "reports"))
        patch.setenv("JUPYTER_PATH", str(root / "jupyter"))  # another kernel by the name of ours
        other = {"argv": ["gone", "{connection_file}"], "display_name": "gone", "language": "python"}
        write_json(root / "jupyter/kernels/python3/kernel.json", other)
        small_study.replace_science(patch.setattr)
        study = load(small_study.write(root / "study", TROUBLE, methods=ALL, memory_gb=0.3))
        folders = {one.config.method: small_study.run_folder(one.config) for one in study.experiments()}
        pages, started = {method: page_of(folder) for method, folder in folders.items()}, root / "study/started"

        def run(**options):
            before = len(list(started.iterdir()))
            whys = {name.split()[1]: why for name, why in engine.run(study, workers=2, **options).items()}
            files = {method: sorted(path.name for path in folder.iterdir()) for method, folder in folders.items()}
            outcomes = {method: read_json(folder / "outcome.json") for method, folder in folders.items()}
            kernels = len(list(started.iterdir())) - before
            return SimpleNamespace(why=whys, files=files, outcome=outcomes, kernels=kernels)

        first = run()
        (root / "study/fixed").touch()
        second = run()
        pages["cbam"].unlink()
        third = run(memory_gb=2)
        patch.setattr(engine, "connect", lambda *_: pytest.fail("nothing was to be done"))
        fourth = run()
    return SimpleNamespace(**locals())


def test_run__what_can_be_done_is_done_whatever_the_others_do(grid):
    assert {method for method, why in grid.first.why.items() if not why} == {"projection", "attention", "cbam"}
    for method in ("projection", "attention", "cbam"):
        assert grid.first.files[method] == DONE
        executed = nbformat.read(grid.folders[method] / "notebook.ipynb", 4)
        given = executed.metadata.papermill.parameters
        assert (given["method"], given["epochs"], given["study"]) == (method, [1, 2], "small")
        assert "data_root" not in given and grid.pages[method].exists()


def test_run__a_kernel_and_a_worker_that_die_are_replaced_and_their_notebooks_run_again(grid):
    assert (grid.root / "study/kernel died").exists() and (grid.root / "study/worker died").exists()
    assert grid.first.why["attention"] == grid.first.why["cbam"] == ""


def test_run__a_failure_keeps_its_notebook_and_error_and_is_tried_again(grid):
    assert grid.first.why["bottleneck"] == "failed, ValueError: the loss is not finite"
    assert grid.first.files["bottleneck"] == ["notebook.failed.ipynb", "outcome.json"]
    outcome = grid.first.outcome["bottleneck"]
    assert (outcome["outcome"], outcome["error"]) == ("failed", "ValueError: the loss is not finite") and outcome[
        "host"
    ]
    assert grid.second.kernels == 1  # nothing else was started
    assert grid.second.why["bottleneck"] == "" and grid.second.files["bottleneck"] == DONE


def test_run__out_of_memory_is_an_outcome_and_is_tried_again_with_more(grid):
    for method, error in (("resnet", "it held more than 0.3 GB"), ("densenet", "MemoryError")):
        assert grid.first.outcome[method]["outcome"] == "out of memory", method
        assert error in grid.first.outcome[method]["error"] and grid.first.outcome[method]["limit_gb"] == 0.3
        assert "tried again with a larger memory_gb" in grid.second.why[method]
        assert grid.third.files[method] == DONE
    assert not any(grid.third.why.values()) and grid.third.kernels == 2


def test_run__a_missing_page_is_made_from_the_notebook_and_then_nothing_is_left_to_do(grid):
    assert grid.pages["cbam"].exists() and grid.third.kernels == 2  # those that had run out of memory
    assert grid.fourth.kernels == 0 and not any(grid.fourth.why.values())


def test_run__writes_which_folders_are_the_studys(grid):
    index = read_json(grid.root / "runs/small/index.json")
    assert (index["study"], index["title"], index["file"]) == ("small", "Small", str(grid.study.file))
    assert [one["folder"] for one in index["experiments"]] == [f"clip_coco/{name}/seed0-00000000" for name in ALL]
    assert index["experiments"][0]["notebook"] == str(grid.study.file.parent / "tiny.ipynb")
    assert index["experiments"][0]["config"] == grid.study.experiments()[0].config.model_dump()


@pytest.fixture
def waiting(tmp_path):
    """``waiting(**options)``: the command, while both its notebooks wait for the file 'go'; and all its processes."""
    study = small_study.write(tmp_path / "study", 'until("go")', methods=["projection", "resnet", "cbam"])
    started = []

    def start(**options):
        process = command("run", study, "--workers", "2", start_new_session=True, **options)
        started.append(process)
        until(lambda: len(list(study.parent.glob("started/*"))) == 2 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        return process, psutil.Process(process.pid).children(recursive=True)

    start.study = study
    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_run__killed_it_leaves_no_process_and_the_next_run_continues(waiting, monkeypatch, capsys):
    """Also: a second command says who runs the study, and nothing listens beyond this machine."""
    process, family = waiting()
    ends = [end for one in [process, *family] for end in psutil.Process(one.pid).net_connections()]
    assert {end.laddr.ip for end in ends if end.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    small_study.replace_science(monkeypatch.setattr)
    with pytest.raises(
        RuntimeError, match=rf"'small' is being run by process {process.pid} on .* since .*: wait for it"
    ):
        engine.run(load(waiting.study))
    process.kill()
    until(lambda: not alive(family), 5)
    (waiting.study.parent / "go").touch()
    assert not any(engine.run(load(waiting.study), workers=2).values())
    assert "Small: 3 experiments, 0 are done, 3 to run." in capsys.readouterr().out
    assert len(list(runs_root().glob("small/*/*/*/notebook.ipynb"))) == 3


def test_run__ctrl_c_ends_everything_and_says_that_the_same_command_continues(waiting):
    process, family = waiting()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 130 and "Traceback" not in said
    assert said.endswith("Interrupted. What is done is kept; the same command continues.\n")
    until(lambda: not alive(family), 5)


@pytest.fixture
def science(monkeypatch):
    small_study.replace_science(monkeypatch.setattr)


def test_parameters__what_a_notebook_does_not_list_goes_into_its_overrides(tmp_path):
    study = load(small_study.write(tmp_path)).model_copy(update={"parameters": {"tau": 3.0, "width": 64}})
    (job,) = map(small_study.job_of, study.experiments())
    given = _parameters(job)
    assert given["overrides"] == {"tau": 3.0}  # 64 is the default
    assert set(given) == {"study", "dataset", "method", "variant", "epochs", "seed", "overrides"}
    small_study.write(tmp_path, "", small_study.PARAMETERS.replace("overrides = {}", "temperature = 2.0"))
    with pytest.raises(ValueError, match=r"tiny\.ipynb has no parameter tau; it has dataset, .*temperature"):
        _parameters(job)


@pytest.mark.parametrize("variable", ["KDLIB_RUNS", "KDLIB_REPORTS"])
def test_run__a_folder_that_cannot_be_written_is_an_error_that_names_the_variable(
    tmp_path, science, monkeypatch, variable
):
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        engine.run(load(small_study.write(tmp_path / "study")))
    assert not runs_root().joinpath("small/index.json").exists()


def test_token__of_another_folder_differs(monkeypatch, tmp_path):
    for root in (runs_root(), reports_root()):
        write_json(root / "small/.command.json", "a")
    here = token("small")
    monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / "elsewhere"))
    assert token("small") != here and "KDLIB_REPORTS" in token("small")


def test_allocation__workers_follow_gpus_cores_and_memory_of_the_allocation(tmp_path, monkeypatch):
    study = load(small_study.write(tmp_path))
    for gpus, cores, memory, expected in ((["0", "1", "2"], 1, 8, 3), ([], 8, 64, 8), ([], 64, 5, 2), ([], 1, 1, 1)):
        for name, value in (("gpus", gpus), ("cores", cores), ("memory_bytes", memory * 2**30)):
            monkeypatch.setattr(machine, name, lambda value=value: value)
        assert status.allocation(study)["workers"] == expected


def test_features__are_one_job_a_teacher_and_data_set_with_tokens_where_one_student_reads_them(tmp_path):
    jobs = map(small_study.job_of, load(small_study.write(tmp_path, methods=ALL)).experiments())
    (built,) = engine._features(jobs).values()
    assert built.reads == "tokens" and built.build and built.name == "features of clip_coco"


def test_apart__is_another_process_and_an_error_there_is_one_here():
    assert engine.apart(os.getpid) != os.getpid()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        engine.apart(os.listdir, "/nowhere")
