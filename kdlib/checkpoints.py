"""Checkpoints: one folder an epoch, whole or not there, readable without executing anything.

checkpoints/epoch-0005/ holds model.safetensors (the distiller: student and all trained parts of the losses),
optimizer.safetensors, and state.json with epoch, step, history, configuration, versions and the digests of
the other two files and of itself. cooldown-0005/ is a leaf: the end of a cooldown that started at epoch 5. No training
continues from it.
"""

import os
import shutil
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import kdlib
from kdlib.files import RunDir, file_digest, make_folder, read_record, rename, seal, seal_broken, sync, write_json

FILES = ("model.safetensors", "optimizer.safetensors")


def save(run: RunDir, distiller: nn.Module, optimizer: torch.optim.Optimizer, state: dict, name: str = "") -> Path:
    """Write the checkpoint of ``state['epoch']``, whole or not at all; returns its folder.

    ``name``: the folder's name, 'epoch-0005' and so on by default.
    """
    folder = run.checkpoints / (name or f"epoch-{state['epoch']:04d}")
    scratch = run.checkpoints / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    make_folder(scratch)
    save_file({name: value.contiguous() for name, value in distiller.state_dict().items()}, scratch / FILES[0])
    save_file(flatten_optimizer(distiller, optimizer), scratch / FILES[1])
    for name in FILES:
        sync(scratch / name)
    versions = {"kdlib": kdlib.__version__, "torch": torch.__version__}
    record = state | {"versions": versions, "files": {name: file_digest(scratch / name) for name in FILES}}
    write_json(scratch / "state.json", seal(record))
    if folder.exists():
        shutil.rmtree(folder)  # a damaged one of the same epoch: only those are written again
    rename(scratch, folder)
    return folder


def flatten_optimizer(distiller: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Optimizer state as flat tensors, named '<parameter>//<entry>'."""
    names = {parameter: name for name, parameter in distiller.named_parameters()}
    return {
        f"{names[parameter]}//{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def restore(folder: Path, distiller: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict:
    """Load a checkpoint into ``distiller`` and ``optimizer``; returns its state record."""
    device = next(distiller.parameters()).device
    distiller.load_state_dict(load_file(folder / FILES[0], device=str(device)))
    if optimizer is not None:
        parameters = dict(distiller.named_parameters())
        optimizer.state.clear()
        for name, value in load_file(folder / FILES[1]).items():
            parameter_name, key = name.split("//")
            parameter = parameters[parameter_name]
            # AdamW keeps its step counter on the CPU whatever the device of the parameter.
            optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    return read_record(folder / "state.json")


def problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None when it is whole and unaltered."""
    state = read_record(folder / "state.json")
    if state is None:
        return "state.json is missing or truncated"
    if seal_broken(state):
        return "state.json was altered"
    for name in FILES:
        if not (folder / name).exists():
            return f"{name} is missing"
        if file_digest(folder / name) != state["files"][name]:
            return f"{name} was truncated or altered"
        try:
            load_file(folder / name)
        except SafetensorError as error:
            return f"{name} is no safetensors file ({error})"
    return None


def latest(run: RunDir, train_key: str, up_to: int) -> Path | None:
    """The last good checkpoint of this training at or below epoch ``up_to``; warns of damaged ones and skips them."""
    numbered = {folder.name.removeprefix("epoch-"): folder for folder in run.checkpoints.glob("epoch-*")}
    epochs = sorted((name for name in numbered if name.isdecimal()), key=int, reverse=True)
    for folder in (numbered[name] for name in epochs if int(name) <= up_to):
        found = problem(folder)
        if found is None and read_record(folder / "state.json")["train_key"] != train_key:
            found = "it belongs to another training"
        if found is None:
            return folder
        warnings.warn(f"Checkpoint {folder} is passed over: {found}. Going back to the one before.", stacklevel=2)
    return None


def leaf_name(epoch: int) -> str:
    """The folder of the cooldown from an epoch."""
    return f"cooldown-{epoch:04d}"


def leaf(run: RunDir, train_key: str, epoch: int, cooldown: int) -> Path | None:
    """The good checkpoint of a cooldown of ``cooldown`` epochs from ``epoch``, finished or not; None without one."""
    folder = run.checkpoints / leaf_name(epoch)
    state = read_record(folder / "state.json")
    if state is None or state.get("train_key") != train_key or state.get("cooldown") != cooldown:
        return None
    found = problem(folder)
    if found is not None:
        warnings.warn(f"Checkpoint {folder} is passed over: {found}. The cooldown starts again.", stacklevel=2)
        return None
    return folder


def scored(run: RunDir, train_key: str, epochs: int, cooldown: int) -> Path | None:
    """The checkpoint that is scored after ``epochs``: with ``cooldown`` the end of the cooldown, else the epoch's.

    None where it is missing, damaged, or the cooldown is not finished.
    """
    if cooldown:
        folder = leaf(run, train_key, epochs, cooldown)
        done = folder is not None and read_record(folder / "state.json")["epoch"] == epochs + cooldown
        return folder if done else None
    folder = latest(run, train_key, up_to=epochs)
    return folder if folder is not None and int(folder.name.split("-")[1]) == epochs else None
