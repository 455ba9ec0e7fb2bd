"""Copies of toy teachers, to be damaged."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdlib import teachers
from kdlib.config import RunConfig


@pytest.fixture
def copy(tmp_path):
    """``copy("clip")``: the configuration and the folder of a copy; ``pickled``: with pytorch_model.bin alone."""

    def make(family: str, name: str = "copy", pickled: bool = False) -> tuple[RunConfig, Path]:
        folder = tmp_path / name
        shutil.copytree(teachers.resolve(RunConfig(teacher=family, dataset="coco")), folder)
        if pickled:
            torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
            (folder / "model.safetensors").unlink()
        return RunConfig(teacher=family, dataset="coco", checkpoint=str(folder)), folder

    return make
