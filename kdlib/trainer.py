"""The training loop, in reading order, its learning rate and its checkpoints. Resumes from any epoch, bit for bit.

checkpoints/epoch-0005.pt has the distiller, the optimizer, and a record (key of the training, epoch, step, history);
epoch-0005.pt.sha256 its digest. cooldown-0005.pt is the cooldown branch from epoch 5: no longer training continues it.
"""

import hashlib
import io
import math
import os
import socket
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.loader import TrainLoader
from kdlib.machine import autocast, choose, keep_memory, now, to_device
from kdlib.utils import Progress, file_digest, write_atomic, write_json

WEIGHT_DECAY = 0.01  # AdamW's, on matrices and kernels


def learning_rate(step: int, peak: float, warmup_steps: int) -> float:
    """Linear warm-up to ``peak``, then peak * sqrt(warmup_steps / step); ``step`` from 1. 10 epochs are 5 and 5."""
    return peak * min(step / warmup_steps, (warmup_steps / step) ** 0.5)


def with_cooldown(step: int, config: RunConfig, last: int, cooling: int) -> float:
    """The learning rate that after step ``last`` falls to zero over ``cooling`` steps, as one minus the square root.

    Haegele et al., arXiv:2405.18392, section 3.
    """
    rate = learning_rate(min(step, last), config.lr_peak, config.warmup_steps)
    return rate * (1 - ((step - last - 1) / cooling) ** 0.5) if step > last else rate


def cooldown_epochs(config: RunConfig, budget: int) -> int:
    """Epochs of the cooldown that follows ``budget`` epochs: its share of them, at least one; 0 without one."""
    return max(1, round(config.cooldown * budget)) if config.cooldown else 0


def make_optimizer(distiller: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels, not on biases, norms and the logit scale."""
    matrices = {"params": [one for one in distiller.parameters() if one.ndim >= 2], "weight_decay": WEIGHT_DECAY}
    others = {"params": [one for one in distiller.parameters() if one.ndim < 2], "weight_decay": 0.0}
    return torch.optim.AdamW([matrices, others], lr=config.lr_peak)


def train(distiller: Distiller, loader: TrainLoader, config: RunConfig, folder: Path, key: str) -> list[dict]:
    """Train to the largest of ``config.epochs``, from the last good checkpoint. Returns :func:`history`.

    With ``config.cooldown`` a branch follows for each budget: some more epochs from its checkpoint, on the data that
    would come next, while the learning rate falls to zero.
    """
    keep_memory()
    distiller.to(choose(config.device), memory_format=torch.channels_last)  # other weights than convolutions' have none
    initial = {name: value.clone() for name, value in distiller.state_dict().items()}
    steps, total = len(loader), max(config.epochs)
    stages = [(budget, 0, 0) for budget in config.epochs]  # budget, epochs of its cooldown, epochs shown before its own
    for budget in config.epochs if config.cooldown else ():
        stages.append((budget, cooldown_epochs(config, budget), total - budget))
        total += cooldown_epochs(config, budget)
    running = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%FT%TZ", time.gmtime())}
    done = _latest(folder, key, max(config.epochs))
    with Progress(f"{config.method}, steps", total * steps, done * steps) as progress:
        for budget, cooling, shown in stages:
            optimizer, branch = make_optimizer(distiller, config), _path(folder, budget, cooling)
            rate = partial(with_cooldown, config=config, last=budget * steps, cooling=cooling * steps)
            done = _latest(folder, key, budget)
            start = branch if cooling and _is_good(branch, key) else _path(folder, done)
            distiller.load_state_dict(initial)
            record = restore(start, distiller, optimizer) if done else {"epoch": 0, "history": []}
            for epoch in range(record["epoch"] + 1, budget + cooling + 1):
                write_json(folder / "running.json", running | {"epoch": shown + epoch, "of": total})
                trained = _epoch(distiller, optimizer, loader, config, epoch, rate, progress, shown * steps)
                trained |= {"cooldown": budget} if cooling else {}
                record = {"key": key, "epoch": epoch, "step": epoch * steps, "history": [*record["history"], trained]}
                save(branch if cooling else _path(folder, epoch), distiller, optimizer, record)
    return history(folder, config)


def _epoch(distiller, optimizer, loader, config, epoch: int, rate: Callable, progress: Progress, shown: int) -> dict:
    """Train one epoch; returns its record. ``rate(step)``: the learning rate; ``shown``: steps of other stages."""
    device, step = choose(config.device), (epoch - 1) * len(loader)
    exact = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not have
    distiller.train()
    sums: dict[str, Tensor] = {}
    waited, started = 0.0, now(device)
    batches = iter(loader.epoch(epoch))
    for done in range(1, len(loader) + 1):
        asked = time.perf_counter()
        batch = to_device(next(batches), device)
        waited += time.perf_counter() - asked
        step += 1
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        with autocast(device, config.precision):
            loss, terms = distiller(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm:
            terms["gradient_norm"] = nn.utils.clip_grad_norm_(distiller.parameters(), config.clip_norm)
        optimizer.step()
        for name, value in ({"loss": 0} | terms | {"loss": loss.detach()}).items():  # a term may be called loss too
            sums[name] = sums.get(name, 0.0) + value.to(exact)  # stays on the device: no step waits
        if progress.due or done == len(loader):
            mean = sums["loss"].item() / done
            if not math.isfinite(mean):
                raise _not_finite(f"The loss is {mean}", epoch, step, batch)
            speed = done * loader.batch_size / (now(device) - started)
            progress.update(shown + step, f"epoch {epoch}, loss {mean:.3f}, {speed:.0f} images/s")
    if not all(value.isfinite().all() for value in distiller.state_dict().values()):
        raise _not_finite("A weight is not finite", epoch, step, batch)  # the last loss was taken before the last step
    seconds = now(device) - started
    return {
        "epoch": epoch,
        **{name: value.item() / len(loader) for name, value in sums.items()},
        "logit_scale": distiller.scale.item(),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "images_seen": step * loader.batch_size,
        "seconds": seconds,
        "data_share": waited / seconds,
    }


def _not_finite(what: str, epoch: int, step: int, batch: dict[str, Tensor]) -> FloatingPointError:
    remedy = "Lower lr_peak or raise warmup_steps; the checkpoints up to the epoch before are good."
    if wrong := [name for name, value in batch.items() if not value.isfinite().all()]:
        remedy = f"The teacher's features are not finite either ({', '.join(wrong)}): look for NaN in its checkpoint."
    return FloatingPointError(f"{what} in epoch {epoch}, by step {step}. {remedy}")


def _path(folder: Path, epoch: int, cooldown: int = 0) -> Path:
    return folder / "checkpoints" / f"{'cooldown' if cooldown else 'epoch'}-{epoch:04d}.pt"


def save(path: Path, distiller: nn.Module, optimizer: torch.optim.Optimizer, record: dict) -> None:
    """Write a checkpoint whole or not at all, after its digest, so that none is there without one."""
    buffer = io.BytesIO()  # torch hides the error of a full disk where it writes the file itself
    torch.save({"model": distiller.state_dict(), "optimizer": optimizer.state_dict(), "record": record}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    write_atomic(path.with_name(f"{path.name}.sha256"), f"{digest}  {path.name}\n")  # as sha256sum writes it
    write_atomic(path, buffer.getvalue())


def restore(path: Path, distiller: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict:
    """Load a checkpoint into ``distiller`` and ``optimizer``; returns its record."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    distiller.load_state_dict(state["model"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return state["record"]


def _record(path: Path) -> dict:
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)["record"]


def _is_good(path: Path, key: str, epoch: int = 0) -> bool:
    """Whether a checkpoint of this training, and of ``epoch`` if given, is there and whole; warns of a damaged one."""
    digest = path.with_name(f"{path.name}.sha256")
    if not path.exists():
        return False
    whole = digest.exists() and digest.read_bytes().split()[:1] == [file_digest(path).encode()]
    if whole and (record := _record(path))["key"] == key:
        return epoch in (0, record["epoch"])
    problem = "it belongs to another training" if whole else f"it does not match {digest.name}"
    warnings.warn(f"Checkpoint {path} is passed over: {problem}. Training continues from the one before.", stacklevel=2)
    return False


def _latest(folder: Path, key: str, up_to: int) -> int:
    """The epoch of the last good checkpoint of this training, at most ``up_to``; 0 without one."""
    return next((epoch for epoch in range(up_to, 0, -1) if _is_good(_path(folder, epoch), key)), 0)


def checkpoint_of(folder: Path, key: str, epochs: int, config: RunConfig) -> Path | None:
    """The checkpoint that is scored for a budget: its epoch's, or its finished cooldown's; None if it is not good."""
    cooling = cooldown_epochs(config, epochs)
    path = _path(folder, epochs, cooling)
    return path if _is_good(path, key, epochs + cooling) else None


def history(folder: Path, config: RunConfig) -> list[dict]:
    """A record an epoch of a finished training; the epochs of cooldowns come last, with ``cooldown``, their budget."""
    records = _record(_path(folder, max(config.epochs)))["history"]
    for budget in config.epochs if config.cooldown else ():
        records += [record for record in _record(_path(folder, budget, 1))["history"] if "cooldown" in record]
    return records
