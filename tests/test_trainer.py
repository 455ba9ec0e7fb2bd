"""The trainer against the loop that everybody writes first: what makes it fast leaves its numbers where they were."""

import pytest
import torch

from kdlib import checkpoints
from kdlib.experiment import Experiment
from kdlib.features.loader import Reader, TrainLoader
from kdlib.files import file_digest
from kdlib.trainer import cooldown_epochs, cooled, learning_rate


def plain(experiment: Experiment) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and mean losses: float32 in torch's own memory format, each loss read at once, nothing but torch."""
    config, distiller = experiment.config, experiment.distiller()
    groups = [
        {"params": [one for one in distiller.parameters() if one.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [one for one in distiller.parameters() if one.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    loader = TrainLoader(experiment.splits["fit"], distiller.student.reads, config.batch_size, config.seed)
    step, means = 0, []
    distiller.train()
    for epoch in range(1, config.epochs + 1):
        losses = []
        for batch in loader.epoch(epoch):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.lr_peak, config.warmup_steps)
            optimizer.zero_grad()
            loss, _ = distiller(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    return distiller.state_dict(), means


@pytest.mark.parametrize("teacher", ["clip", "dino"])
@pytest.mark.parametrize("method", ["projection", "bottleneck", "attention"])
def test_train__of_a_head_is_the_plain_loop_bit_for_bit(small_run, teacher, method):
    experiment = Experiment.open(small_run(teacher, method=method, epochs=3))
    history = experiment.train()
    weights, losses = plain(experiment)
    assert [record["loss"] for record in history] == pytest.approx(losses, rel=1e-12)
    trained = experiment.trained.state_dict()
    assert all(torch.equal(trained[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("teacher", ["clip", "dino"])
@pytest.mark.parametrize("method", ["cbam", "resnet", "densenet"])
def test_train__of_convolutions_is_the_plain_loop_but_for_the_order_of_sums(small_run, teacher, method):
    """They run channels-last, which adds the same products in another order; with the steps the difference grows."""
    experiment = Experiment.open(small_run(teacher, method=method, epochs=1))
    history = experiment.train()
    assert [record["loss"] for record in history] == pytest.approx(plain(experiment)[1], rel=1e-3)


def test_cooled__falls_from_all_of_the_rate_by_the_root():
    """1 - sqrt(i / 4) for i = 0, 1, 2, 3: 1, 1/2, 1 - 0.7071, 1 - 0.8660; the fifth step would have none."""
    assert [cooled(step, 4) for step in range(1, 5)] == pytest.approx([1, 0.5, 0.292893, 0.133975], abs=1e-6)
    assert cooled(5, 4) == 0


@pytest.mark.parametrize(("share", "epochs", "expected"), [(0.0, 10, 0), (0.2, 5, 1), (0.2, 10, 2), (0.2, 1, 1)])
def test_cooldown__is_a_share_of_the_epochs_and_at_least_one(small_run, share, epochs, expected):
    assert cooldown_epochs(small_run(cooldown=share, epochs=epochs)) == expected


ALONE = {"method": "resnet", "objective": "feature_regression+anchor_kl", "anchors": 20, "crop": 0.8, "flip": True}


def test_cooldown__never_changes_the_trunk_and_ends_without_a_rate(small_run):
    leaf = Experiment.open(small_run("dino", epochs=2, cooldown=0.5, **ALONE, study="leaf"))
    history = leaf.train()
    trunk = Experiment.open(small_run("dino", epochs=2, **ALONE, study="trunk"))
    trunk.train()
    for file in checkpoints.FILES:
        assert file_digest(leaf.run.checkpoints / "epoch-0002" / file) == file_digest(trunk.checkpoint / file)
    assert leaf.checkpoint.name == "cooldown-0002"
    assert [record.get("cooldown") for record in history] == [None, None, True]
    steps = history[1]["images_seen"] // 16 // 2
    assert history[2]["learning_rate"] == pytest.approx(history[1]["learning_rate"] * cooled(steps, steps))
    assert history[2]["images_seen"] == 3 * steps * 16
    assert any(
        not torch.equal(value, trunk.trained.state_dict()[name]) for name, value in leaf.trained.state_dict().items()
    )


def test_cooldown__of_more_epochs_starts_from_the_trunk_and_not_from_the_leaf(small_run):
    """4 epochs with a leaf after 2 are the 4 epochs without."""
    for epochs in (2, 4):
        leaf = Experiment.open(small_run("dino", method="projection", epochs=epochs, cooldown=0.5, study="leaf"))
        leaf.train()
    trunk = Experiment.open(small_run("dino", method="projection", epochs=4, study="trunk"))
    trunk.train()
    assert file_digest(leaf.run.checkpoints / "epoch-0004" / checkpoints.FILES[0]) == file_digest(
        trunk.checkpoint / checkpoints.FILES[0]
    )
    assert {path.name for path in leaf.run.checkpoints.glob("cooldown-*")} == {"cooldown-0002", "cooldown-0004"}


def test_cooldown__of_another_length_is_another_leaf_and_another_experiment(small_run):
    first = Experiment.open(small_run("dino", method="projection", epochs=4, cooldown=0.25))
    first.train()
    second = Experiment.open(small_run("dino", method="projection", epochs=4, cooldown=0.5))
    assert second.keys["train"] == first.keys["train"] and second.keys["experiment"] != first.keys["experiment"]
    assert second.checkpoint is None
    with pytest.raises(FileNotFoundError, match=r"train\(\) first"):
        _ = second.trained
    assert len(second.train()) == 6


def test_clip_norm__bounds_the_step_and_is_in_the_history(small_run):
    """Plain gradient descent on clipped gradients would move by at most lr x clip_norm; here their norm is recorded."""
    free = Experiment.open(small_run("dino", method="projection", epochs=1, study="free")).train()
    held = Experiment.open(small_run("dino", method="projection", epochs=1, study="held", clip_norm=1e-3)).train()
    loose = Experiment.open(small_run("dino", method="projection", epochs=1, study="loose", clip_norm=1e9)).train()
    assert "gradient_norm" not in free[0] and held[0]["gradient_norm"] > 1e-3
    assert loose[0]["loss"] == free[0]["loss"] and loose[0]["gradient_norm"] > 0
    assert held[0]["loss"] != free[0]["loss"]


def test_train__weights_that_are_not_finite_are_never_saved(small_run, monkeypatch):
    """One step an epoch: its loss is taken before the step that ruins the weights."""
    step = torch.optim.AdamW.step

    def ruin(optimizer):
        step(optimizer)
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].fill_(torch.inf)

    experiment = Experiment.open(small_run("clip", batch_size=1000, epochs=2))
    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    with pytest.raises(FloatingPointError, match=r"A weight is not finite in epoch 1, by step 1\. Lower lr_peak"):
        experiment.train()
    assert not list(experiment.run.checkpoints.glob("epoch-*"))


def test_train__a_teacher_that_is_not_finite_is_not_blamed_on_the_learning_rate(small_run, monkeypatch):
    images = Reader.images

    def broken(reader, *given):
        batch = images(reader, *given)
        return batch | {"image": batch["image"] * torch.nan}

    experiment = Experiment.open(small_run("clip", epochs=1))
    monkeypatch.setattr(Reader, "images", broken)
    with pytest.raises(FloatingPointError, match=r"The teacher's stored features are not finite either \(image\)"):
        experiment.train()
