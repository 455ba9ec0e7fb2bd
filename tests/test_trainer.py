"""The trainer against the loop that everybody writes first: what makes it fast leaves its numbers where they were."""

import pytest
import torch

from kdlib.experiment import Experiment
from kdlib.features.loader import TrainLoader
from kdlib.trainer import learning_rate


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
