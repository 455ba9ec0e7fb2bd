"""The digest of the code: words do not count, code does."""

import pytest

from kdlib import code

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
def test_without_docstrings__words_and_layout_do_not_count(changed):
    assert WORDS[changed] != SOURCE
    assert code.without_docstrings(WORDS[changed]) == code.without_docstrings(SOURCE)


@pytest.mark.parametrize("changed", CODE)
def test_without_docstrings__code_counts(changed):
    assert CODE[changed] != SOURCE
    assert code.without_docstrings(CODE[changed]) != code.without_docstrings(SOURCE)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two files with one stage; ``digest()`` of it as it stands."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "parts" / "two.py").write_text("x = 1\n")
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    monkeypatch.setattr(code, "STAGES", {"stage": ("one.py", "parts/*.py")})

    def digest() -> str:
        return code.digest_of.__wrapped__("stage")

    return tmp_path, digest


def test_digest_of__follows_the_code_of_every_file_of_the_stage_and_no_other(package):
    folder, digest = package
    before = digest()
    (folder / "beside.py").write_text("y = 2\n")
    (folder / "one.py").write_text(WORDS["a comment"])
    (folder / "parts" / "two.py").write_text('"""Two."""\n\nx = 1  # one\n')
    assert digest() == before
    (folder / "parts" / "two.py").write_text("x = 2\n")
    assert digest() != before


def test_digest_of__sees_new_and_renamed_files(package):
    folder, digest = package
    before = digest()
    (folder / "parts" / "two.py").rename(folder / "parts" / "deux.py")
    renamed = digest()
    (folder / "parts" / "three.py").write_text("")
    assert len({before, renamed, digest()}) == 3


def test_digest_of__is_24_hex_digits_and_differs_between_stages():
    digests = [code.digest_of(stage) for stage in code.STAGES]
    assert all(len(digest) == 24 and int(digest, 16) >= 0 for digest in digests)
    assert len(set(digests)) == len(code.STAGES) == 3


@pytest.mark.parametrize("pattern", sorted({pattern for patterns in code.STAGES.values() for pattern in patterns}))
def test_stages__name_files_that_exist(pattern):
    assert list(code.PACKAGE.glob(pattern))


def test_digest_of__an_unknown_stage_is_an_error():
    with pytest.raises(KeyError):
        code.digest_of("printing")


def test_keys__a_changed_file_of_ones_own_is_another_training(small_run, tmp_path, monkeypatch):
    from kdlib import inputs, teachers

    monkeypatch.syspath_prepend(str(tmp_path))
    config = small_run("dino", objective="own_loss:mse+attention_transfer", method="own_student:Mine")
    (tmp_path / "own_student.py").write_text("class Mine: pass\n")
    teacher = teachers.describe("dino", teachers.STANDIN)
    data = inputs.load_data(config)
    keys = []
    for source in ("mse = 1", "mse = 1  # a comment", "mse = 2"):
        (tmp_path / "own_loss.py").write_text(source)
        keys.append(inputs.cell_keys(config, data, teacher)["train"])
    assert keys[0] == keys[1] != keys[2]
    (tmp_path / "own_student.py").write_text("class Mine: width = 2\n")
    assert inputs.cell_keys(config, data, teacher)["train"] != keys[2]
