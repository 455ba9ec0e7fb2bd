"""The training loop, in reading order, and the learning rate. Resumes from any epoch, bit for bit."""

import json
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdlib import checkpoints
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.features.loader import TrainLoader
from kdlib.files import RunDir, write_atomic
from kdlib.machine import autocast, choose, now, to_device
from kdlib.progress import Progress

# Names in a record of the history beside the mean loss and its terms; data_share is the share of the time that the
# training waits for batches.
FACTS = {
    "epoch", "logit_scale", "learning_rate", "gradient_norm", "images_seen", "seconds", "data_share",
    "images_per_second", "cooldown",
}  # fmt: skip


def learning_rate(step: int, peak: float, warmup_steps: int) -> float:
    """Linear warm-up to ``peak``, then peak * sqrt(warmup_steps / step). ``step`` counts from 1.

    It does not know how long training will last: 10 epochs are exactly 5 and 5 more.
    """
    return peak * min(step / warmup_steps, (warmup_steps / step) ** 0.5)


def make_optimizer(distiller: nn.Module, config: RunConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices and kernels, not on biases, norms and the logit scale."""
    matrices = [parameter for parameter in distiller.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in distiller.parameters() if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr_peak)


def cooled(step: int, steps: int) -> float:
    """The share of the learning rate that a cooldown of ``steps`` steps keeps at ``step`` (from 1): 1 - sqrt(i / c).

    Haegele et al., arXiv:2405.18392, section 3. The first step has all of it, the step after the last would have none.
    """
    return 1 - ((step - 1) / steps) ** 0.5


def cooldown_epochs(config: RunConfig) -> int:
    """Epochs of the cooldown that follows ``config.epochs``: its share of them, at least one; 0 without one."""
    return max(1, round(config.cooldown * config.epochs)) if config.cooldown else 0


def train(distiller: Distiller, loader: TrainLoader, config: RunConfig, run: RunDir, train_key: str) -> list[dict]:
    """Train to ``config.epochs`` epochs, from the last good checkpoint of this training; one checkpoint an epoch.

    With ``config.cooldown`` a cooldown follows: some more epochs from the last checkpoint, on the data that would come
    next, while the learning rate falls to zero. Its checkpoint is a leaf: a longer training starts from the trunk, the
    checkpoint before the cooldown.

    Returns the history, a record an epoch: mean loss and terms, learning rate, images seen, seconds, and the share of
    them spent waiting for data. Raises FloatingPointError when the loss is not finite.
    """
    device = choose(config.device)
    distiller.to(device, memory_format=torch.channels_last)  # of convolutions; other weights have no such order
    optimizer = make_optimizer(distiller, config)
    history, step, first = [], 0, 1
    folder = checkpoints.latest(run, train_key, up_to=config.epochs)
    if folder is not None:
        state = checkpoints.restore(folder, distiller, optimizer)
        history, step, first = state["history"], state["step"], state["epoch"] + 1
    cooling = cooldown_epochs(config)
    with Progress(f"{config.method}, steps", (config.epochs + cooling) * len(loader)) as progress:
        progress.start_at(step)

        def rate(step: int) -> float:
            return learning_rate(step, config.lr_peak, config.warmup_steps)

        for epoch in range(first, config.epochs + 1):
            history.append(_epoch(distiller, optimizer, loader, config, epoch, step, rate, progress))
            step += len(loader)
            state = {"train_key": train_key, "epoch": epoch, "step": step, "history": history}
            checkpoints.save(run, distiller, optimizer, state | {"config": config.training()})
            write_atomic(run.metrics, "".join(json.dumps(record) + "\n" for record in history))
        if cooling:
            history = _cool_down(distiller, optimizer, loader, config, run, train_key, history, rate, progress)
    return history


def _cool_down(distiller, optimizer, loader, config, run, train_key, history, rate, progress) -> list[dict]:
    """The cooldown from epoch ``config.epochs``; returns the history. An interrupted cooldown is continued."""
    trunk, cooling = config.epochs * len(loader), cooldown_epochs(config)
    leaf, first = checkpoints.leaf(run, train_key, config.epochs, cooling), config.epochs + 1
    if leaf is not None:
        state = checkpoints.restore(leaf, distiller, optimizer)
        history, first = state["history"], state["epoch"] + 1
        progress.start_at(state["step"])

    def falling(step: int) -> float:
        return rate(trunk) * cooled(step - trunk, cooling * len(loader))

    for epoch in range(first, config.epochs + cooling + 1):
        step = (epoch - 1) * len(loader)
        record = _epoch(distiller, optimizer, loader, config, epoch, step, falling, progress)
        history = [*history, record | {"cooldown": True}]
        state = {"train_key": train_key, "epoch": epoch, "step": step + len(loader), "history": history}
        state |= {"cooldown": cooling, "of_epoch": config.epochs, "config": config.training()}
        checkpoints.save(run, distiller, optimizer, state, checkpoints.leaf_name(config.epochs))
    return history


def _epoch(distiller, optimizer, loader, config, epoch: int, step: int, rate: Callable, progress: Progress) -> dict:
    """Train one epoch; returns its record. ``step``: the steps before it; ``rate(step)``: the learning rate."""
    device = choose(config.device)
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

        for name, value in {"loss": loss.detach(), **terms}.items():
            sums[name] = sums.get(name, 0.0) + value.to(exact)  # stays on the device: no step waits
        if progress.due or done == len(loader):
            mean = sums["loss"].item() / done
            if not math.isfinite(mean):
                raise _not_finite(f"The loss is {mean}", epoch, step, batch)
            speed = done * loader.batch_size / (now(device) - started)
            progress.update(step, f"epoch {epoch}, loss {mean:.3f}, {speed:.0f} images/s")

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
        "images_per_second": len(loader) * loader.batch_size / seconds,
    }


def _not_finite(what: str, epoch: int, step: int, batch: dict[str, Tensor]) -> FloatingPointError:
    """The error of a training with NaN or infinity, with the remedy; says so where the stored features hold them."""
    wrong = [name for name, value in batch.items() if value.is_floating_point() and not value.isfinite().all()]
    remedy = (
        f"The teacher's stored features are not finite either ({', '.join(wrong)}): look for NaN in the teacher's "
        "outputs or its checkpoint; no learning rate mends them."
        if wrong
        else "Lower lr_peak or raise warmup_steps; the checkpoints up to the epoch before are good."
    )
    return FloatingPointError(f"{what} in epoch {epoch}, by step {step}. {remedy}")
