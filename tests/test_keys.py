"""The digest of the code: words do not count, code does."""

import ast

import pytest

from kdlib import keys

SOURCE = '''"""Module."""

import math


class Shape:
    """Class."""

    def area(self, r):
        """Method."""
        text = """kept"""
        return math.pi * r**2 if text else 0


async def later():
    """Only words."""
'''
WORDS = {
    "a comment": SOURCE.replace("import math", "import math  # of circles"),
    "the module's docstring": SOURCE.replace("Module.", "Another module."),
    "the class's docstring": SOURCE.replace("Class.", "Another class."),
    "the method's docstring": SOURCE.replace("Method.", "Another\n\n        method, at length."),
    "an async function's docstring": SOURCE.replace("Only words.", "Other words."),
    "blank lines": SOURCE.replace("\n\n\n", "\n"),
    "quotes": SOURCE.replace('"""kept"""', "'kept'"),
    "brackets": SOURCE.replace("math.pi * r**2", "(math.pi * (r**2))"),
    "no docstring": SOURCE.replace('    """Class."""\n\n', "").replace('"""Module."""\n', ""),
}
CODE = {
    "a number": SOURCE.replace("r**2", "r**3"),
    "an operator": SOURCE.replace("math.pi *", "math.pi /"),
    "a name": SOURCE.replace("area", "size"),
    "a string that is no docstring": SOURCE.replace("kept", "changed"),
    "an import": SOURCE.replace("import math", "import cmath as math"),
    "a default": SOURCE.replace("self, r", "self, r=1"),
    "a decorator": SOURCE.replace("    def area", "    @staticmethod\n    def area"),
    "the kind of function": SOURCE.replace("async def", "def"),
}


@pytest.mark.parametrize("changed", WORDS)
def test_essence__words_and_layout_do_not_count(changed):
    assert WORDS[changed] != SOURCE
    assert keys.essence(ast.parse(WORDS[changed])) == keys.essence(ast.parse(SOURCE))


@pytest.mark.parametrize("changed", CODE)
def test_essence__code_counts(changed):
    assert CODE[changed] != SOURCE
    assert keys.essence(ast.parse(CODE[changed])) != keys.essence(ast.parse(SOURCE))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two files with one stage; ``digest()`` of it as it stands."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "parts" / "two.py").write_text("from kdlib.one import area\n\nx = 1\n\n\ndef f():\n    return 1\n")
    monkeypatch.setattr(keys, "PACKAGE", tmp_path)
    monkeypatch.setattr(keys, "STAGES", {"stage": ("one.py", "parts/two.py")})

    def digest(**names: str) -> str:
        keys._content.cache_clear()
        return keys.digest_of("stage", **names)

    yield tmp_path, digest
    keys._content.cache_clear()


def test_digest_of__follows_the_code_of_every_file_of_the_stage_and_no_other(package):
    folder, digest = package
    before = digest()
    (folder / "beside.py").write_text("y = 2\n")
    (folder / "one.py").write_text(WORDS["a comment"])
    assert digest() == before
    (folder / "parts" / "two.py").write_text("x = 2\n")
    assert digest() != before


def test_digest_of__a_file_that_moves_makes_nothing_stale(package, monkeypatch):
    folder, digest = package
    before = digest()
    (folder / "rooms").mkdir()
    (folder / "one.py").rename(folder / "rooms" / "first.py")
    moved = (folder / "parts" / "two.py").read_text().replace("kdlib.one", "kdlib.rooms.first")
    (folder / "parts" / "two.py").write_text(moved)
    monkeypatch.setattr(keys, "STAGES", {"stage": ("parts/two.py", "rooms/first.py")})
    assert digest() == before


def test_digest_of__a_function_of_a_file_is_followed_alone(package, monkeypatch):
    folder, digest = package
    monkeypatch.setattr(keys, "STAGES", {"stage": ("parts/two.py:f", "one.py:Shape.area")})
    before = digest()
    (folder / "parts" / "two.py").write_text("x = 2\n\n\ndef f():\n    return 1\n")
    assert digest() == before
    (folder / "parts" / "two.py").write_text("x = 2\n\n\ndef f():\n    return 2\n")
    changed = digest()
    (folder / "one.py").write_text(CODE["an operator"])
    assert len({before, changed, digest()}) == 3
    monkeypatch.setattr(keys, "STAGES", {"stage": ("one.py:Shape.volume",)})
    with pytest.raises(KeyError, match=r"Shape\.volume"):
        digest()


def test_digest_of__takes_the_file_of_the_method_that_is_asked_for(package, monkeypatch):
    folder, digest = package
    monkeypatch.setattr(keys, "STAGES", {"stage": ("parts/{method}.py",)})
    (folder / "parts" / "three.py").write_text("z = 3\n")
    two, three = digest(method="two"), digest(method="three")
    (folder / "parts" / "three.py").write_text("z = 4\n")
    assert digest(method="two") == two != three != digest(method="three")


def test_digest_of__is_24_hex_digits_and_differs_between_stages():
    digests = [keys.digest_of(stage, teacher="clip", method="cbam") for stage in keys.STAGES]
    assert all(len(digest) == 24 and int(digest, 16) >= 0 for digest in digests)
    assert len(set(digests)) == len(keys.STAGES)


@pytest.mark.parametrize("place", sorted({place for places in keys.STAGES.values() for place in places}))
def test_stages__name_code_that_exists(place):
    assert keys._content(keys.PACKAGE, place.format(teacher="clip", method="cbam"))


def test_stages__what_only_describes_makes_nothing_stale():
    followed = {
        place.partition(":")[0] for stage in ("features", "training", "evaluation") for place in keys.STAGES[stage]
    }
    assert "evaluate/exposure.py" not in followed and "machine.py:autocast" in keys.STAGES["features"]


def test_digest_of__an_unknown_stage_is_an_error():
    with pytest.raises(KeyError):
        keys.digest_of("printing")


def test_keys__a_changed_file_of_ones_own_is_another_training(small_run, tmp_path, monkeypatch):
    from kdlib import sources, teachers

    monkeypatch.syspath_prepend(str(tmp_path))
    config = small_run("dino", objective="own_loss:mse+attention_transfer", method="own_student:Mine")
    (tmp_path / "own_student.py").write_text("class Mine: pass\n")
    teacher = teachers.describe("dino", teachers.STANDIN)
    data = sources.load_data(config)
    trained = []
    for source in ("mse = 1", "mse = 1  # a comment", "mse = 2"):
        (tmp_path / "own_loss.py").write_text(source)
        trained.append(keys.experiment_keys(config, data, teacher)["train"])
    assert trained[0] == trained[1] != trained[2]
    (tmp_path / "own_student.py").write_text("class Mine: width = 2\n")
    assert keys.experiment_keys(config, data, teacher)["train"] != trained[2]
