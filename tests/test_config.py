"""Paths are absolute as soon as they are read, names are one folder, a file is written whole or not at all."""

import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from kdlib import utils
from kdlib.config import RunConfig


def config(**fields) -> RunConfig:
    return RunConfig(teacher="clip", dataset="coco", **fields)


def test_paths__by_hand_are_relative_to_the_working_directory_and_names_and_ids_stay(tmp_path, monkeypatch):
    (tmp_path / "my data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, place in {"my data": "my data", "./new": "new", "~/new": "new"}.items():
        given = config(data_root=value, checkpoint=value, extra_images=value)
        assert {given.data_root, given.checkpoint, given.extra_images} == {str(tmp_path / place)}
    for value in ("", "toy", "shapes", "shapes:2000", "openai/clip-vit-base-patch32@3d74acf"):
        assert config(checkpoint=value).checkpoint == value


def test_places__of_variables_are_those_of_the_command_in_its_kernels_too(tmp_path):
    """A kernel starts in the folder of its notebook."""
    given = {"KDLIB_RUNS": "my runs", "KDLIB_REPORTS": "~/pages", "HF_HOME": "hub", "HOME": str(tmp_path / "me")}
    show = "print(utils.runs_root(), utils.reports_root(), os.environ['HF_HOME'], sep='\\n')"
    code = f"import os, subprocess, sys; from kdlib import utils; {show}; sys.stdout.flush()"
    code += f"; subprocess.run([sys.executable, '-c', {f'import os; from kdlib import utils; {show}'!r}], cwd='/')"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | given, text=True)
    assert out.splitlines() == [f"{tmp_path}/my runs", f"{tmp_path}/me/pages", f"{tmp_path}/hub"] * 2


def test_study_and_variant__are_one_folder_each_and_a_number_is_a_fine_name():
    assert (config(variant=2).folder, config(study=3).study) == ("projection+2", "3")
    for fields in ({"study": "../x y"}, {"study": "a/b"}, {"study": ""}, {"variant": "a/b"}):
        with pytest.raises(ValidationError, match="String should match pattern"):
            config(**fields)


def test_write_atomic__on_a_full_disk_names_the_file_and_leaves_it_as_it_was(tmp_path, monkeypatch):
    utils.write_atomic(tmp_path / "a.txt", "ä")

    monkeypatch.setattr(utils.os, "fsync", Mock(side_effect=OSError(122, "Disk quota exceeded")))
    with pytest.raises(OSError, match=r"a\.txt cannot be written: Disk quota exceeded\. Make room.* set KDLIB_RUNS"):
        utils.write_atomic(tmp_path / "a.txt", "b")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ["ä".encode()]
