"""Training is bit-identical however it is cut: at once, continued, killed, or resumed by hand."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from kdlib import checkpoints
from kdlib.experiment import Experiment
from kdlib.files import file_digest
from kdlib.study import status

# A training that says when it has begun a step, and dawdles after it, so that it can be killed in mid-epoch.
SLOW = """
import sys, time
from kdlib import trainer
from kdlib.experiment import Experiment
from kdlib.config import RunConfig
from kdlib.features.loader import TrainLoader
whole = TrainLoader.epoch
def slowly(self, epoch):
    for batch in whole(self, epoch):
        yield batch
        print("step of epoch", epoch, flush=True)
        time.sleep(0.3 if epoch == int(sys.argv[2]) else 0)
TrainLoader.epoch = slowly
Experiment.open(RunConfig.model_validate_json(sys.argv[1])).train()
"""


def weights(experiment: Experiment, epoch: int) -> dict[str, str]:
    """Digests of the weights and the optimizer's state after an epoch."""
    folder = experiment.run.checkpoints / f"epoch-{epoch:04d}"
    return {name: file_digest(folder / name) for name in checkpoints.FILES}


def train(config) -> Experiment:
    experiment = Experiment.open(config)
    experiment.train()
    return experiment


def in_new_process(config) -> None:
    code = "import sys; from kdlib.experiment import Experiment; from kdlib.config import RunConfig; "
    code += "Experiment.open(RunConfig.model_validate_json(sys.argv[1])).train()"
    subprocess.run([sys.executable, "-c", code, config.model_dump_json()], check=True, capture_output=True)


def killed_in(epoch: int, config) -> None:
    """Train in a new process, and kill it after a step of ``epoch``."""
    arguments = [sys.executable, "-c", SLOW, config.model_dump_json(), str(epoch)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith(f"step of epoch {epoch}"):
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("teacher", "method"), [("clip", "attention"), ("blip", "resnet"), ("dino", "cbam")])
def test_resume__ten_epochs_are_five_and_five_more_in_a_new_process(small_run, teacher, method):
    at_once = train(small_run(teacher, method=method, epochs=10, study="at_once"))
    train(small_run(teacher, method=method, epochs=5, study="in_two"))
    in_new_process(small_run(teacher, method=method, epochs=10, study="in_two"))
    in_two = Experiment.open(small_run(teacher, method=method, epochs=10, study="in_two"))
    for epoch in (5, 10):
        assert weights(at_once, epoch) == weights(in_two, epoch)


def test_resume__a_run_killed_in_the_middle_of_an_epoch_ends_the_same(small_run):
    config = small_run("clip", method="projection", epochs=5, study="killed", batch_size=8)
    killed_in(3, config)
    killed = Experiment.open(config)
    assert sorted(path.name for path in killed.run.checkpoints.glob("epoch-*")) == [
        "epoch-0001",
        "epoch-0002",
    ]
    killed.train()
    whole = train(config.model_copy(update={"study": "whole"}))
    assert weights(killed, 5) == weights(whole, 5)


# A student in its teacher's space: anchors, crops, a projector with batch norm, clipped gradients, a cooldown.
ALONE = {"method": "resnet", "objective": "feature_regression+anchor_kl", "anchors": 20, "crop": 0.8, "flip": True}
ALONE |= {"clip_norm": 1.0, "batch_size": 8}


def leaf(experiment: Experiment, epoch: int) -> dict[str, str]:
    """Digests of what a cooldown from an epoch ended with."""
    folder = experiment.run.checkpoints / f"cooldown-{epoch:04d}"
    return {name: file_digest(folder / name) for name in checkpoints.FILES}


@pytest.mark.parametrize("teacher", ["clip", "dino"])
def test_resume__a_student_that_stands_alone_in_two_with_leaves_is_the_one_at_once(small_run, teacher):
    at_once = train(small_run(teacher, epochs=4, cooldown=0.5, study="at_once", **ALONE))
    train(small_run(teacher, epochs=2, cooldown=0.5, study="in_two", **ALONE))
    in_new_process(small_run(teacher, epochs=4, cooldown=0.5, study="in_two", **ALONE))
    in_two = Experiment.open(small_run(teacher, epochs=4, cooldown=0.5, study="in_two", **ALONE))
    assert weights(at_once, 4) == weights(in_two, 4)
    assert leaf(at_once, 4) == leaf(in_two, 4)


# The same from stored views and extra images, batches made in threads; with a text side of its own where there is text.
VIEWED = ALONE | {"views": 3, "colour": 0.2, "extra_images": "drawn:40"}


@pytest.mark.parametrize(
    ("teacher", "killed", "own"),
    [
        ("dino", 4, {}),
        ("clip", 4, {"method": "mobilenet", "text_side": "bag", "flip": False}),
        # In the second epoch of the cooldown.
        ("blip", 6, {"text_side": "transformer", "flip": False, "cooldown": 0.5}),
    ],
)
def test_resume__views_and_extra_images_in_two_are_those_at_once(small_run, teacher, killed, own):
    given = VIEWED | own
    at_once = train(small_run(teacher, epochs=4, study="at_once", **given))
    in_new_process(small_run(teacher, epochs=2, study="in_two", **given))
    killed_in(killed, small_run(teacher, epochs=4, study="in_two", **given))
    in_two = train(small_run(teacher, epochs=4, study="in_two", **given))
    assert weights(at_once, 4) == weights(in_two, 4)
    assert "cooldown" not in own or leaf(at_once, 4) == leaf(in_two, 4)


@pytest.mark.parametrize("epoch", [3, 4])
def test_resume__a_run_killed_in_its_cooldown_ends_the_same(small_run, epoch):
    """In the first of its two epochs it starts again from the trunk, in the second from the first."""
    config = small_run("dino", epochs=2, cooldown=1.0, study="killed", **ALONE)
    killed_in(epoch, config)
    killed = Experiment.open(config)
    assert killed.checkpoint is None
    history = killed.train()
    whole = Experiment.open(config.model_copy(update={"study": "whole"}))
    expected = whole.train()
    assert leaf(killed, 2) == leaf(whole, 2) and weights(killed, 2) == weights(whole, 2)
    assert [record["loss"] for record in history] == [record["loss"] for record in expected]


def test_resume__a_damaged_leaf_is_named_and_made_again(small_run):
    config = small_run("dino", method="projection", epochs=2, cooldown=0.5)
    experiment = train(config)
    good, path = leaf(experiment, 2), experiment.checkpoint / checkpoints.FILES[0]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="cooldown-0002 is passed over"):
        again = train(config)
    assert leaf(again, 2) == good


def test_resume__from_epoch_three_by_hand(small_run):
    experiment = train(small_run(method="bottleneck", epochs=5))
    before = weights(experiment, 5)
    for epoch in (4, 5):
        folder = experiment.run.checkpoints / f"epoch-{epoch:04d}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert train(small_run(method="bottleneck", epochs=5)).run.path == experiment.run.path
    assert weights(experiment, 5) == before


@pytest.mark.parametrize("damage", ["truncated", "altered", "state lost", "state {}", "state []", "history altered"])
def test_resume__passes_over_a_damaged_checkpoint_and_names_it(small_run, damage):
    experiment = train(small_run(method="projection", epochs=4))
    good = weights(experiment, 4)
    folder = experiment.run.checkpoints / "epoch-0004"
    if damage == "truncated":
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        content = bytearray((folder / "optimizer.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "optimizer.safetensors").write_bytes(bytes(content))
    elif damage == "state lost":
        (folder / "state.json").unlink()
    elif damage.startswith("state "):
        (folder / "state.json").write_text(damage.removeprefix("state "))
    else:
        state = json.loads((folder / "state.json").read_text())
        state["history"][0]["loss"] = 0.0
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.warns(UserWarning, match="epoch-0004 is passed over"):
        train(small_run(method="projection", epochs=4))
    assert weights(experiment, 4) == good


def test_resume__a_folder_of_another_name_is_no_checkpoint(small_run):
    experiment = train(small_run(method="projection", epochs=1))
    (experiment.run.checkpoints / "epoch-final").mkdir()
    assert status.last_epoch(experiment.run) == 1
    assert train(small_run(method="projection", epochs=2)).checkpoint.name == "epoch-0002"


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"key": 3}'])
def test_resume__a_damaged_record_of_the_untrained_student_is_made_again(small_run, content):
    experiment = train(small_run(method="projection", epochs=1))
    expected = experiment.controls()["scores"]["untrained"]
    (experiment.run.path / "untrained.json").write_text(content)
    assert experiment.controls()["scores"]["untrained"] == expected


def test_resume__changed_settings_never_continue_an_old_checkpoint(small_run):
    first = train(small_run(method="projection", epochs=2))
    second = train(small_run(method="projection", epochs=2, lr_peak=0.02))
    fresh = train(small_run(method="projection", epochs=2, lr_peak=0.02, study="fresh"))
    assert weights(second, 2) == weights(fresh, 2)
    aside = first.run.path.with_name(f"seed0.superseded-{first.keys['train'][:8]}")
    assert (aside / "checkpoints" / "epoch-0002").is_dir()


@pytest.mark.parametrize("method", ["projection", "resnet"])
def test_checkpoint__holds_the_trained_parts_of_the_loss(small_run, method):
    experiment = train(small_run("clip", method=method, epochs=1))
    saved = load_file(experiment.run.checkpoints / "epoch-0001" / "model.safetensors")
    moments = load_file(experiment.run.checkpoints / "epoch-0001" / "optimizer.safetensors")
    assert saved["log_scale"] != torch.tensor(1 / 0.07).log()
    assert "log_scale//exp_avg" in moments
    assert not any("teacher" in name for name in saved)


def test_train__leaves_no_half_written_checkpoint(small_run, monkeypatch):
    config = small_run(method="projection", epochs=2)
    run = train(config.model_copy(update={"epochs": 1})).run.path

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "write_json", fail)
    with pytest.raises(OSError, match="no space"):
        train(config)
    assert [path.name for path in (run / "checkpoints").glob("epoch-*")] == ["epoch-0001"]
