"""Keys follow the code and not its words; whatever a notebook edits is another training."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from kdlib import distiller as distilling
from kdlib import keys, losses, students
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.students import Inputs

CONFIG = RunConfig(teacher="dino", dataset="tinyimagenet")
SOURCE = '''"""Module."""
import math


class Shape:
    """Class."""

    def area(self, r):
        """Method."""
        if r < 0:
            raise ValueError(f"{r} is below", "zero", r)
        text = """kept"""
        return math.pi * r**2 if text else 0

async def later():
    """Only words."""
'''
WORDS = {
    "a comment": ("import math", "import math  # of circles"), "a module's docstring": ("Module.", "Another: ÄÖ."),
    "a class's docstring": ("Class.", "Another."), "a method's docstring": ("Method.", "Another\n\n        method."),
    "an async function's docstring": ("Only words.", "Others."), "no docstring": ('    """Class."""\n\n', ""),
    "quotes": ('"""kept"""', "'kept'"), "brackets": ("math.pi * r**2", "(math.pi * (r**2))"),
    "a message": ('f"{r} is below", "zero"', '"Take a radius of at least 0, not", f"{r:.2f}"'),
}  # fmt: skip
CODE = {
    "a number": ("r**2", "r**3"), "a name": ("area", "size"), "a string that is no docstring": ("kept", "changed"),
    "an import": ("import math", "import cmath as math"), "a default": ("self, r", "self, r=1"),
    "a decorator": ("    def area", "    @staticmethod\n    def area"), "the kind of function": ("async def", "def"),
    "the kind of error": ("ValueError", "TypeError"), "an argument that is no text": ('"zero", r)', '"zero", 0)'),
}  # fmt: skip


def test_essence__code_counts_and_words_and_layout_do_not():
    essences = {name: keys.essence(SOURCE.replace(*change)) for name, change in (WORDS | CODE).items()}
    same = [name for name, essence in essences.items() if essence == keys.essence(SOURCE)]
    assert same == list(WORDS) and all(old in SOURCE for old, _ in [*WORDS.values(), *CODE.values()])


def test_code_digest__follows_each_file_of_a_room_and_no_other(tmp_path):
    inside = ["students/heads.py", "losses.py", "distiller.py", "trainer.py", "loader.py"]
    for file in [*inside, "students/inner/deep.py", "cli.py"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(SOURCE, encoding="utf-8")

    def digest_with(file: str, source: str) -> str:
        (tmp_path / file).write_text(source, encoding="utf-8")
        keys.code_digest.cache_clear()
        return keys.code_digest("training", tmp_path)

    assert all(list(keys.PACKAGE.glob(place)) for places in keys.ROOMS.values() for place in places)
    assert len({digest_with(file, f"x = {number}") for number, file in enumerate(inside)}) == 5
    last = digest_with("losses.py", "x = 1  # again")
    assert last == digest_with("students/inner/deep.py", "y = 1") == digest_with("cli.py", "y = 1")


def test_keys__depend_on_what_they_name():
    def trained(features="f", extra=None, changes=None, **fields) -> str:
        return keys.train_key(CONFIG.model_copy(update=fields), features, extra, changes)

    def scored(data="1", features="f", **fields) -> str:
        return keys.evaluation_key(CONFIG.model_copy(update=fields), {"test": data}, features)

    assert trained(epochs=[9], study="other", device="cpu", changes={}) == trained()
    others = [trained("g"), trained("f", {"a": 1}), trained("f", None, {"x": 1}), trained(seed=1), trained(cooldown=1)]
    assert len({trained(), *others}) == 6 and scored(seed=1) == scored()
    assert len({scored(), scored("2"), scored(features="g"), scored(score_on="dev")}) == 4


CELL = """
import functools
import torch
from torch import nn
from kdlib.students import Student, standardised, unit
HIDDEN, PARTS, WEIGHTS = 16, {"left", "right"}, torch.ones(2)
@functools.cache
def depth(number):
    return squeeze(number, 1) if number else 1
def squeeze(width, outputs):
    return nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs * depth(0)))
class Marked: pass
class Mine(Student):
    reads = "features"
    def __init__(self, config, inputs):
        super().__init__(config, inputs)
        self.image = squeeze(inputs.teacher_width, config.width)
    def see(self, batch):
        "Look."
        return {"image": unit(self.image(standardised(batch["image"])))}
def factory(power):
    def pull(outputs, batch):
        assert "x" not in {"a", "b"}
        return ((outputs["logits"] - outputs["teacher_logits"]) ** power).mean() * WEIGHTS[len(PARTS) - 1] / 1000
    return pull
pull = factory(2)
"""


def cell(source: str = CELL) -> dict:
    """The variables of a notebook after a cell."""
    variables = {"__name__": "__main__"}
    exec(compile(source, "cell", "exec"), variables)
    return variables


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Mine", "WEIGHTS = 16", "WEIGHTS = 8"), ("Mine", "nn.ReLU()", "nn.GELU()"), ("Mine", "else 1", "else 2"),
        ("Mine", "standardised(batch", "2 * standardised(batch"), ("Mine", "(Student)", "(Student, Marked)"),
        ("pull", "/ 1000", "/ 100"), ("pull", "factory(2)", "factory(4)"), ("pull", '"left", ', ""),
        ("pull", "torch.ones", "torch.zeros"), ("pull", '{"a", "b"}', '{"a", "c"}'),
    ],
)  # fmt: skip
def test_own_code__of_a_cell_follows_all_that_it_uses(name, old, new):
    before = keys.own_code(cell()[name])
    again = CELL.replace('"Look."', '"See, at length."').replace("import functools", "# of mine\n\nimport functools")
    assert len(before) == 64 and keys.own_code(cell(f"\n\n{again}\nunused = 3\n")[name]) == before
    assert old in CELL and keys.own_code(cell(CELL.replace(old, new))[name]) != before


def test_digests__are_the_same_in_another_process_and_a_locale_of_latin_1():
    code = f"from kdlib import keys\nrooms = [keys.code_digest(room) for room in keys.ROOMS]\n{CELL}"
    code += "print(rooms, keys.own_code(Mine), keys.own_code(pull), sep='\\n')"
    other = {"LC_ALL": "en_US.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"}
    out = subprocess.check_output([sys.executable, "-c", code], env=os.environ | other, text=True)
    rooms = str([keys.code_digest(room) for room in keys.ROOMS])
    assert out.splitlines() == [rooms, *(keys.own_code(cell()[name]) for name in ("Mine", "pull"))]


def test_own_code__of_a_file_is_the_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for source in ("def mse(): return 1\n", "def mse(): return 1  # ä\n", "def mse(): return 2\n"):
        (tmp_path / "own_loss.py").write_text(source, encoding="utf-8")
        found.append(keys.own_code("own_loss:mse"))
    assert found[0] == found[1] != found[2] == keys.own_code(sys.modules["own_loss"].mse)
    sys.modules.pop("own_loss")


def test_own_code__is_nothing_for_the_packages_and_libraries():
    things = losses.LOSSES["kl"], "kl", "kdlib.students:CBAM", nn.Linear, torch.relu, len
    assert [keys.own_code(thing) for thing in things] == [""] * 6


def made(**fields) -> Distiller:
    config = CONFIG.model_copy(update=fields)
    torch.manual_seed(0)
    return Distiller(students.build(config, Inputs(32, (4, 4))), distilling.objective_of(config), config, 10.0).eval()


EDITS = {
    lambda given: setattr(given.student, "image", nn.Sequential()): "student.image: Linear(in_features=32, ",
    lambda given: setattr(given, "config", made(tau=5.0).config): "config.tau: 2.0 → 5.0",
    lambda given: setattr(given, "teacher_scale", 20.0): "teacher_scale: 10.0 → 20.0",
    lambda given: given.student.image.weight.data.add_(1e-6): "initial weights of student.image.weight: ",
    lambda given: given.student.image.bias.requires_grad_(False): "student.image.bias: trained → frozen",
    lambda given: given.objective.update(logit_matching=cell()["pull"]): "objective: ",
    lambda given: given.student.image.register_forward_hook(cell()["pull"]): "student.image: ",
    lambda given: setattr(given.student, "see", cell()["pull"].__get__(given.student)): "student.see: ",
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_changes__each_edit_is_another_training_and_said_in_words(edit):
    fresh, given = made(), made()
    given.student({"image": torch.randn(4, 32)})  # looking at a batch is no edit
    assert keys.changes(fresh, given) == {} and keys.in_words({}) == []
    edit(given)
    found = keys.changes(fresh, given)
    assert keys.train_key(CONFIG, "f", None, found) != keys.train_key(CONFIG, "f")
    assert keys.in_words(found)[0].startswith(EDITS[edit]) and keys.changes(given, given) == {}


@pytest.mark.parametrize("place", [(losses, "logit_matching"), (Distiller, "scale"), (students.Student, "read")])
def test_changes__a_replaced_function_or_method_of_the_package_is_seen_with_its_code(place, monkeypatch):
    (owner, name), found = place, []
    for source in (CELL, CELL, CELL.replace("1000", "10")):
        own = cell(source)["pull"]
        monkeypatch.setattr(owner, name, property(own) if name == "scale" else own)
        found.append(keys.changes(made(), made()))
    assert list(found[0]) == [f"{owner.__name__}.{name}"] and found[0] == found[1] != found[2]
    monkeypatch.undo()
    assert keys.changes(made(), made()) == {}


def test_changes__an_own_module_counts_with_its_code():
    twice, found = f"{CELL}\nclass Twice(nn.Module):\n    def forward(self, x): return 2 * x\n", []
    for source in (twice, twice, twice.replace("2 * x", "3 * x")):
        given = made()
        given.student.image = nn.Sequential(given.student.image, cell(source)["Twice"]())
        found.append(keys.changes(made(), given))
    assert found[0] == found[1] != found[2]
