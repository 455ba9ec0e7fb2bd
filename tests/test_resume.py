"""Training is bit-identical however it is cut: at once, continued, interrupted, or from a damaged checkpoint."""

import hashlib
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from fakes import Loader, config, inputs

from kdlib import students
from kdlib.distiller import Distiller, objective_of
from kdlib.trainer import checkpoint_of, train

KEY = "a" * 64
# A student in its teacher's space: anchors, pixels that change with the epoch, a projector with batch norm, clipping.
OWN = {"method": "resnet", "text_side": "transformer", "objective": "feature_regression+anchor_kl", "clip_norm": 1.0}


def run(folder: Path, stop_at: tuple[int, int] = (0, 0), **fields) -> list[dict]:
    """Train with a distiller made anew, as another process would."""
    given = config(**{"method": "projection"} | fields)
    torch.manual_seed(given.seed)
    distiller = Distiller(students.build(given, inputs()), objective_of(given), given, teacher_scale=20.0)
    return train(distiller, Loader(given, 2, stop_at), given, folder, KEY)


def state(folder: Path, name: str) -> dict:
    """All tensors of a checkpoint, flat: weights, buffers, and the optimizer's."""
    saved = torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)
    moments = {f"{row}//{key}": value for row, own in saved["optimizer"]["state"].items() for key, value in own.items()}
    return saved["model"] | moments


def assert_equal(first: Path, second: Path, *names: str) -> None:
    for name in names:
        before, after = state(first, name), state(second, name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[entry], after[entry]) for entry in before), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Four epochs of a projection at once, each with its checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, epochs=4)
    return folder


@pytest.mark.parametrize("fields", [{"method": "attention"}, {"method": "cbam"}, OWN])
def test_resume__six_epochs_are_three_and_three_more(tmp_path, fields):
    run(tmp_path / "at_once", epochs=6, **fields)
    run(tmp_path / "in_two", epochs=[1, 3], **fields)
    before = (tmp_path / "in_two/checkpoints/epoch-0003.pt").stat().st_mtime_ns
    history = run(tmp_path / "in_two", epochs=[1, 3, 6], **fields)
    assert (tmp_path / "in_two/checkpoints/epoch-0003.pt").stat().st_mtime_ns == before
    assert_equal(tmp_path / "at_once", tmp_path / "in_two", "epoch-0001", "epoch-0003", "epoch-0006")
    assert [record["epoch"] for record in history] == list(range(1, 7))


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_resume__a_run_interrupted_in_any_epoch_ends_the_same(tmp_path, whole, epoch, step):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, (epoch, step), epochs=4)
    assert len(list(tmp_path.glob("checkpoints/*.pt"))) == epoch - 1
    run(tmp_path, epochs=4)
    assert_equal(whole, tmp_path, *(f"epoch-{number:04d}" for number in range(1, 5)))


def test_train__ends_with_the_weights_of_the_largest_budget(tmp_path):
    for fields in ({"cooldown": 0.5}, {}):
        given = config(epochs=[1, 2], **fields)
        for _ in range(2):  # trained, and found trained
            distiller = Distiller(students.build(given, inputs()), objective_of(given), given, teacher_scale=20.0)
            train(distiller, Loader(given), given, tmp_path / str(given.cooldown), KEY)
            path = checkpoint_of(tmp_path / str(given.cooldown), KEY, 2, given)
            weights = torch.load(path, weights_only=True)["model"]
            assert all(torch.equal(distiller.state_dict()[name], weight) for name, weight in weights.items())


@pytest.fixture(scope="module")
def cooled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cooled")
    run(folder, epochs=[2, 3], cooldown=0.9, **OWN)
    return folder


def test_cooldown__never_changes_the_epochs_that_it_starts_from(tmp_path, cooled):
    run(tmp_path, epochs=3, **OWN)
    assert_equal(cooled, tmp_path, "epoch-0002", "epoch-0003")
    assert not torch.equal(*(state(cooled, name)["projector.weight"] for name in ("cooldown-0003", "epoch-0003")))


def test_cooldown__of_more_budgets_later_is_that_of_all_at_once(tmp_path, cooled):
    run(tmp_path, epochs=2, cooldown=0.9, **OWN)
    history = run(tmp_path, epochs=[2, 3], cooldown=0.9, **OWN)
    assert_equal(cooled, tmp_path, "cooldown-0002", "cooldown-0003", "epoch-0003")
    assert [record.get("cooldown") for record in history] == [None] * 3 + [2] * 2 + [3] * 3


@pytest.mark.parametrize("epoch", [3, 4])
def test_cooldown__interrupted_ends_the_same(tmp_path, cooled, epoch):
    """In epoch 3 of all, and in branch 2's second epoch: what is not finished is not scored."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, (epoch, 2), epochs=[2, 3], cooldown=0.9, **OWN)
    given = config(cooldown=0.9, **OWN)
    assert checkpoint_of(tmp_path, KEY, 3, given) is None
    run(tmp_path, epochs=[2, 3], cooldown=0.9, **OWN)
    assert_equal(cooled, tmp_path, "cooldown-0002", "cooldown-0003")
    assert checkpoint_of(tmp_path, KEY, 3, given).name == "cooldown-0003.pt"


@pytest.mark.parametrize("how", ["a flipped bit", "no digest", "empty digest"])
@pytest.mark.parametrize("epoch", [2, 4])
def test_damage__is_noticed_named_and_trained_again_from_the_epoch_before(tmp_path, whole, how, epoch):
    """Also of a budget that later epochs exist of: those stay."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"checkpoints/epoch-{epoch:04d}.pt"
    if how == "a flipped bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "no digest":
        Path(f"{path}.sha256").unlink()
    else:
        os.truncate(f"{path}.sha256", 0)
    with pytest.warns(UserWarning, match=rf"epoch-{epoch:04d}\.pt is passed over"):
        assert checkpoint_of(tmp_path, KEY, epoch, config()) is None
    with pytest.warns(UserWarning, match=rf"epoch-{epoch:04d}\.pt is passed over"):
        run(tmp_path, epochs=[2, 4])
    assert_equal(whole, tmp_path, "epoch-0002", "epoch-0004")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint_of(tmp_path, KEY, epoch, config())


def test_damage__of_a_cooldown_starts_it_again(tmp_path, cooled):
    shutil.copytree(cooled, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "checkpoints/cooldown-0002.pt", 1000)
    with pytest.warns(UserWarning, match="cooldown-0002.pt is passed over"):
        run(tmp_path, epochs=[2, 3], cooldown=0.9, **OWN)
    assert_equal(cooled, tmp_path, "cooldown-0002", "cooldown-0003")


def test_checkpoint__that_would_run_code_is_refused(tmp_path, whole, capsys):
    """With a digest that fits, as whoever writes such a file can make it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints/epoch-0004.pt"
    torch.save({"record": type("Hostile", (), {"__reduce__": lambda self: (print, ("it runs",))})()}, path)
    path.with_name(f"{path.name}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest(), encoding="utf-8")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoint_of(tmp_path, KEY, 4, config())
    assert "it runs" not in capsys.readouterr().out


def test_checkpoint__of_another_training_is_passed_over(tmp_path, whole):
    with pytest.warns(UserWarning, match="belongs to another training"):
        assert checkpoint_of(whole, "b" * 64, 2, config()) is None
