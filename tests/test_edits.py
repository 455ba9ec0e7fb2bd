"""What somebody changes in a notebook is trained, marked, and never taken for the configuration's own result."""

import linecache
from itertools import count

import pytest
import torch
from torch import nn

from kdlib import edits, keys, losses
from kdlib.distiller import LOSSES
from kdlib.experiment import Experiment
from kdlib.finished import Finished
from kdlib.registry import Registry
from kdlib.students import STUDENTS

CELLS = count()
STUDENT = """
from torch import nn
from kdlib.students import Student, standardised, unit

HIDDEN = 16

def squeeze(spec):
    return nn.Sequential(nn.Linear(spec.teacher_width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, spec.width))

class Mine(Student):
    reads = "features"

    def __init__(self, spec):
        super().__init__(spec)
        self.image = squeeze(spec)

    def see(self, batch):
        return {"image": unit(self.image(standardised(batch["image"])))}
"""
LOSS = """
def pull(distiller, batch, outputs, logits, target):
    return {"pull": ((logits - target) ** 2).mean() / 1000}
"""

CALLS = """
import functools

@functools.cache
def one(number):
    return other(number)

def other(number):
    return one(number)
"""


@pytest.fixture
def notebook(monkeypatch):
    """``notebook(source)``: run a cell as IPython does, which keeps its source; its variables are returned."""
    variables = {"__name__": "__main__"}
    for registry in (STUDENTS, LOSSES):
        for name in ("Mine", "pull"):
            monkeypatch.setitem(registry, name, None)
            del registry[name]

    def run(source: str) -> dict:
        name = f"cell {next(CELLS)}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), variables)
        return variables

    yield run
    for registry in (STUDENTS, LOSSES):
        for name in ("Mine", "pull"):
            registry.pop(name, None)


def bits(experiment: Experiment) -> bytes:
    folder = experiment.run.checkpoints / f"epoch-{experiment.config.epochs:04d}"
    return (folder / "model.safetensors").read_bytes()


def mended(experiment: Experiment):
    """A distiller with another image side."""
    distiller = experiment.distiller()
    distiller.student.image = nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 64))
    return distiller


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
def test_train__what_was_only_looked_at_trains_as_the_configuration_does(small_run, method):
    """A batch through the student in a cell of the notebook changes no bit, batch norms and all."""
    plain = Experiment.open(small_run("dino", method=method, epochs=1, study="plain"))
    plain.train()
    shown = Experiment.open(small_run("dino", method=method, epochs=1, study="shown"))
    distiller = shown.distiller()
    distiller(next(shown.loader(distiller).epoch(1)))
    shown.train(distiller)
    assert shown.edited == [] and bits(shown) == bits(plain)
    assert shown.run.path.parent.name == method


def test_train__an_edited_layer_is_trained_marked_and_kept_apart(small_run):
    experiment = Experiment.open(small_run("dino"))
    own, train_key = experiment.run.path, experiment.keys["train"]
    history = experiment.train(mended(experiment))
    result = experiment.finish(experiment.evaluate(), history)
    assert "Linear(in_features=128, out_features=64, bias=True) → Sequential()" in result["edited"][0]
    assert experiment.run.path.parent.name.startswith("projection+edited-") and experiment.run.path != own
    assert not list(own.glob("result-*.json")) and not (own / "checkpoints").exists()
    assert experiment.keys["train"] != train_key == experiment.keys["configured"]
    assert isinstance(experiment.trained.student.image, nn.Sequential)
    finished = Finished(experiment.run, result)
    assert finished.name == "projection, edited by hand" and not finished.outdated
    with pytest.raises(FileNotFoundError, match="edited by hand"):
        _ = finished.student
    assert experiment.train()[-1]["epoch"] == 2 and experiment.run.path == own and experiment.edited == []


def test_train__the_same_edit_goes_on_and_another_one_starts_anew(small_run, capsys):
    experiment = Experiment.open(small_run("dino", epochs=1))
    distiller = mended(experiment)
    experiment.train(distiller)
    first = bits(experiment)
    again = Experiment.open(small_run("dino", epochs=2))  # as after Restart and Run All, with more epochs
    assert [record["epoch"] for record in again.train(mended(again))] == [1, 2]
    assert again.run.path == experiment.run.path and first != bits(again)
    again.train(distiller)  # the object that was trained before: no other edit
    assert again.run.path == experiment.run.path
    with torch.no_grad():
        distiller.student.image[0].weight.mul_(2)
    again.train(distiller)
    assert again.run.path != experiment.run.path


def test_train__an_edit_begins_where_its_untrained_row_says(small_run):
    experiment = Experiment.open(small_run("dino"))
    distiller = mended(experiment)
    before = {name: value.clone() for name, value in distiller.student.state_dict().items()}
    experiment.train(distiller)
    untrained = experiment.untrained().student.state_dict()
    assert all(torch.equal(untrained[name], value) for name, value in before.items())
    assert not torch.equal(distiller.student.image[0].weight, before["image.0.weight"])


def test_train__a_frozen_part_stays_and_a_changed_temperature_counts(small_run):
    experiment = Experiment.open(small_run("dino", epochs=1))
    distiller = experiment.distiller()
    distiller.student.image.bias.requires_grad_(False)
    bias = distiller.student.image.bias.clone()
    distiller.config = distiller.config.model_copy(update={"tau": 5.0})
    experiment.train(distiller)
    assert experiment.edited == ["config.tau: 2.0 → 5.0", "student.image.bias: trained → frozen"]
    assert torch.equal(experiment.trained.student.image.bias, bias)


def test_changes__a_loss_and_a_hook_and_a_replaced_function_are_seen(small_run, notebook, monkeypatch):
    experiment = Experiment.open(small_run("dino"))
    fresh, held = experiment.distiller(), experiment.distiller()
    assert edits.changes(fresh, held) == {}
    cell = notebook(LOSS)
    held.objective["logit_matching"] = cell["pull"]
    held.student.image.register_forward_hook(lambda module, given, out: 2 * out)
    found = edits.changes(fresh, held)
    assert list(found) == ["objective.logit_matching", *[place for place in found if place.startswith("hook")]]
    assert len(found) == 2
    monkeypatch.setattr(losses, "logit_matching", cell["pull"])
    assert edits.changes(fresh, experiment.distiller())["kdlib.losses.logit_matching"][1].startswith("pull ")


def test_open__a_student_of_a_cell_enters_the_keys_with_all_that_it_uses(small_run, notebook):
    config = small_run("dino")
    first = Experiment.open(config, student=notebook(STUDENT)["Mine"])
    assert first.config.method == "Mine"
    first.train(first.distiller())
    again = Experiment.open(config, student=notebook(f"\n\n{STUDENT}  # the cell was run again")["Mine"])
    assert again.keys == first.keys
    by_name = Experiment.open(config.model_copy(update={"method": "Mine"}))
    assert by_name.keys == first.keys
    changed = {"HIDDEN = 16": "HIDDEN = 8", "nn.ReLU()": "nn.GELU()", "standardised(batch": "2 * standardised(batch"}
    trained = {first.keys["train"]}
    for old, new in changed.items():
        trained.add(Experiment.open(config, student=notebook(STUDENT.replace(old, new))["Mine"]).keys["train"])
    assert len(trained) == 4


def test_open__a_loss_of_a_cell_trains_and_enters_the_keys(small_run, notebook):
    config = small_run("dino", epochs=1)
    first = Experiment.open(config, losses=["logit_matching", notebook(LOSS)["pull"]])
    assert {"logit_matching", "pull"} <= set(first.train(first.distiller())[-1])
    assert first.edited == []
    assert Experiment.open(config, losses=["logit_matching", notebook(LOSS)["pull"]]).keys == first.keys
    edited = notebook(LOSS.replace("1000", "100"))["pull"]
    assert Experiment.open(config, losses=["logit_matching", edited]).keys["train"] != first.keys["train"]


def test_own_code__without_a_source_it_is_an_error_that_says_what_to_do(notebook):
    variables = {"__name__": "__main__"}
    exec("def pull(*given): return {}", variables)  # as %%time compiles a cell
    with pytest.raises(ValueError, match="cell of its own"):
        keys.code_of(variables["pull"])


def test_own_code__decorated_functions_and_recursion(notebook):
    cell = notebook(CALLS)
    assert set(dict(keys.notebook_code(cell["one"]))) == {"one", "other"}
    assert set(dict(keys.notebook_code(cell["other"]))) == {"one", "other"}


def test_register__a_taken_name_is_refused_unless_it_was_defined_again(notebook):
    registry = Registry("thing of a test", {})
    registry.register("pull", notebook(LOSS)["pull"])
    newer = notebook(LOSS)["pull"]
    registry.register("pull", newer)
    assert registry["pull"] is newer and registry.name_of(newer) == "pull"
    with pytest.raises(ValueError, match="exists already"):
        registry.register("pull", notebook("def push(*given):\n    return {}\n")["push"])
    with pytest.raises(ValueError, match="no name of its own"):
        registry.name_of(lambda: None)
    with pytest.raises(ValueError, match="exists already"):
        LOSSES.register("kl", LOSSES["combined"])
    Registry.known.pop("thing of a test")
