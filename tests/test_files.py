"""Files are written whole, folders belong to one writer and one training, and nothing finished is deleted."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from kdlib import files
from kdlib.files import RunDir


def test_write_atomic__a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1} and len(list(path.parent.iterdir())) == 1


def test_seal__knows_an_altered_record():
    record = files.seal({"a": 1.5, "b": [1, 2], "c": {3: "x"}})
    assert not files.seal_broken(json.loads(json.dumps(record)))
    assert files.seal_broken(record | {"a": 1.6})
    assert files.seal_broken({name: value for name, value in record.items() if name != "digest"})
    for value in (float("nan"), float("inf"), "1.5"):
        assert files.seal_broken(record | {"a": value})


def test_sweep__removes_what_killed_writers_left_and_nothing_else(tmp_path):
    left = [tmp_path / ".a.json.123", tmp_path / "x" / ".epoch-0001.77.ipynb"]
    kept = [tmp_path / ".lock", tmp_path / ".marker.json", tmp_path / "a.json", tmp_path / ".young.json.5"]
    (tmp_path / "x").mkdir()
    (tmp_path / ".epoch-0002.9").mkdir()
    for path in left + kept:
        path.touch()
    for path in (*left, tmp_path / ".epoch-0002.9"):
        os.utime(path, (0, 0))
    files.sweep(tmp_path)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)
    assert not (tmp_path / ".epoch-0002.9").exists()


def test_claim__what_was_set_aside_comes_back_and_is_never_deleted(tmp_path):
    """Train A, change to B, back to A, stop, B again: a finished B is there all the time."""
    run = RunDir(tmp_path / "seed0")
    for key in ("a" * 64, "b" * 64, "a" * 64, "b" * 64):
        with run.writing({"key": key[0]}, key, "training"):
            mine = run.path / f"of-{key[0]}"
            mine.touch()
            assert sorted(path.name for path in run.path.glob("of-*")) == [mine.name]
        assert run.owner == key
    assert sorted(path.name for path in tmp_path.glob("*/of-*")) == ["of-a", "of-b"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("content", ["{}", "[]", "", "{", "7", '"text"'])
def test_claim__a_folder_with_a_broken_config_is_taken_over(tmp_path, content):
    run = RunDir(tmp_path / "seed0")
    run.path.mkdir()
    (run.path / "config.json").write_text(content)
    with run.writing({}, "a" * 64, "training"):
        assert run.owner == "a" * 64


def hold(path, ready):
    with RunDir(path).writing({}, "a" * 64, "training"):
        ready.set()
        signal.pause()


def write_once(path):
    with RunDir(path).writing({}, "a" * 64, "scoring"):
        pass


def test_writing__a_second_writer_waits_and_says_for_whom_and_the_lock_ends_with_its_process(tmp_path, capfd):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path / "seed0", ready))
    first.start()
    assert ready.wait(60)
    run = RunDir(tmp_path / "seed0")
    assert run.writer()["process"] == first.pid and run.writer()["doing"] == "training"
    printed = ""
    second = context.Process(target=write_once, args=(tmp_path / "seed0",))
    second.start()
    while "waiting" not in printed:
        printed += capfd.readouterr().err
        assert second.is_alive()
        time.sleep(0.05)
    assert f"process {first.pid}" in printed and "training since" in printed
    first.kill()
    second.join(60)
    assert second.exitcode == 0 and run.writer() is None
