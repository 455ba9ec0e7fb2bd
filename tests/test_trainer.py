"""The trainer against the loop that everybody writes first, its rates, and what stops it."""

import json
import os

import pytest
import torch
from fakes import Loader, config, inputs

from kdlib import students, trainer, utils
from kdlib.distiller import Distiller, objective_of
from kdlib.losses import LOSSES
from kdlib.trainer import cooldown_epochs, learning_rate, train, with_cooldown

KEY = "a" * 64


def fresh(given, text: bool = True) -> Distiller:
    torch.manual_seed(given.seed)
    student = students.build(given, inputs(text))
    return Distiller(student, objective_of(given), given, teacher_scale=20.0, classes=7)


def plain(given, text: bool, epochs: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and mean losses: torch's own memory format, each loss read at once, nothing but torch."""
    distiller, loader, losses = fresh(given, text).train(), Loader(given), []
    matrices = {"params": [one for one in distiller.parameters() if one.ndim > 1], "weight_decay": 0.01}
    others = {"params": [one for one in distiller.parameters() if one.ndim < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([matrices, others])
    for epoch in range(1, epochs + 1):
        for batch in loader.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(len(losses) + 1, given.lr_peak, given.warmup_steps)
            optimizer.zero_grad()
            loss, _ = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return distiller.state_dict(), [sum(losses[at : at + 3]) / 3 for at in range(0, len(losses), 3)]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("method", ["projection", "bottleneck", "attention"])
def test_train__of_a_head_is_the_plain_loop_bit_for_bit(tmp_path, method, text):
    given, distiller = config(method, epochs=3), fresh(config(method), text)
    history = train(distiller, Loader(given), given, tmp_path, KEY)
    weights, losses = plain(given, text, 3)
    assert [record["loss"] for record in history] == pytest.approx(losses, rel=1e-12)
    assert all(torch.equal(distiller.state_dict()[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("method", ["cbam", "resnet", "densenet"])
def test_train__of_convolutions_is_the_plain_loop_but_for_the_order_of_sums(tmp_path, method):
    """They run channels-last, which adds the same products in another order; with the steps the difference grows."""
    given = config(method, epochs=1, warmup_steps=100)
    history = train(fresh(given), Loader(given), given, tmp_path, KEY)
    assert [record["loss"] for record in history] == pytest.approx(plain(given, True, 1)[1], rel=1e-3)


def test_history__counts_images_and_names_the_terms(tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "loss", lambda outputs, batch: outputs["image"].square().mean())
    given = config(epochs=2, objective="kl+loss")
    first, last = train(fresh(given), Loader(given), given, tmp_path, KEY)
    assert list(first)[:4] == ["epoch", "loss", "kl", "logit_scale"]
    assert first["loss"] == pytest.approx(first["kl"] + 1 / given.width, rel=1e-6)  # the term 'loss' is in the loss
    assert (last["epoch"], last["images_seen"]) == (2, 2 * 3 * given.batch_size)
    assert last["learning_rate"] == learning_rate(6, given.lr_peak, given.warmup_steps)


def test_running__says_who_trains_which_epoch(tmp_path):
    given, seen = config(epochs=[1, 2], cooldown=0.5), []

    class Watched(Loader):
        def epoch(self, epoch):
            seen.append(json.loads((tmp_path / "running.json").read_text(encoding="utf-8")))
            return super().epoch(epoch)

    train(fresh(given), Watched(given), given, tmp_path, KEY)
    assert [(record["epoch"], record["of"]) for record in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two cooldowns
    assert {record["pid"] for record in seen} == {os.getpid()} and seen[0]["since"].endswith("Z")


def test_learning_rate__rises_to_the_peak_and_falls_as_one_over_the_root():
    assert [learning_rate(step, 0.1, 4) for step in (1, 2, 4, 16, 64)] == pytest.approx([0.025, 0.05, 0.1, 0.05, 0.025])


def test_cooldown__falls_from_all_of_the_rate_by_the_root():
    """1 - sqrt(i / 4) for i = 0, 1, 2, 3: 1, 1/2, 1 - 0.7071, 1 - 0.8660; the fifth step would have none."""
    given = config(lr_peak=0.5, warmup_steps=10)
    rates = [with_cooldown(step, given, last=10, cooling=4) for step in range(10, 16)]
    assert rates == pytest.approx([0.5, 0.5, 0.25, 0.146447, 0.066987, 0], abs=1e-6)


def test_cooldown__is_a_share_of_the_epochs_and_at_least_one():
    given = (0.0, 10), (0.2, 5), (0.2, 10), (0.2, 1)
    assert [cooldown_epochs(config(cooldown=share), budget) for share, budget in given] == [0, 1, 2, 1]


def test_cooldown__starts_at_the_rate_of_its_budget_and_ends_without_one(tmp_path):
    given = config(epochs=[2, 4], cooldown=0.5)
    history = train(fresh(given), Loader(given), given, tmp_path, KEY)
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 3, 5, 6]
    for end, start, steps in ((4, 1, 3), (6, 3, 6)):
        share = history[end]["learning_rate"] / history[start]["learning_rate"]
        assert share == pytest.approx(1 - ((steps - 1) / steps) ** 0.5)
    assert history[6]["images_seen"] == 6 * 3 * given.batch_size


def test_clip_norm__bounds_the_step_and_is_in_the_history(tmp_path):
    runs = [config(epochs=1, clip_norm=norm) for norm in (0.0, 1e-3, 1e9)]
    free, held, loose = (train(fresh(one), Loader(one), one, tmp_path / str(one.clip_norm), KEY)[0] for one in runs)
    assert "gradient_norm" not in free and held["gradient_norm"] > 1e-3
    assert loose["loss"] == free["loss"] != held["loss"]


def test_train__weights_that_are_not_finite_are_never_saved_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    given, step = config(epochs=2), torch.optim.AdamW.step

    def ruin(optimizer):
        step(optimizer)
        optimizer.param_groups[0]["params"][0].data.fill_(torch.inf)

    train(fresh(given), Loader(given, steps=1), config(epochs=1), tmp_path, KEY)
    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    with pytest.raises(FloatingPointError, match=r"A weight is not finite in epoch 2, by step 2\. Lower lr_peak"):
        train(fresh(given), Loader(given, steps=1), given, tmp_path, KEY)
    assert list((tmp_path / "checkpoints").glob("*.pt")) == [trainer.checkpoint_of(tmp_path, KEY, 1, given)]


def test_train__a_teacher_that_is_not_finite_is_not_blamed_on_the_learning_rate(tmp_path):
    class Broken(Loader):
        def epoch(self, epoch):
            return (batch | {"image": batch["image"] * torch.nan} for batch in super().epoch(epoch))

    with pytest.raises(FloatingPointError, match=r"The teacher's features are not finite either \(image\)"):
        train(fresh(config()), Broken(config()), config(), tmp_path, KEY)


def test_checkpoint__on_a_full_disk_is_an_error_that_names_the_file_and_leaves_no_half(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(trainer, "write_json", lambda *_: None)  # running.json
    monkeypatch.setattr(utils.os, "fsync", full)
    with pytest.raises(OSError, match=r"epoch-0001.* cannot be written: No space left on device\. Make room there"):
        train(fresh(config()), Loader(config()), config(), tmp_path, KEY)
    assert list((tmp_path / "checkpoints").iterdir()) == []
