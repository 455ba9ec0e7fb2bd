"""The rows of ``make faults`` name tests that exist, and a row without a test says why it has none."""

import ast
from functools import cache
from pathlib import Path

import pytest
import rows
from rows import ROWS, Row


@cache
def defined(file: str) -> set[str]:
    """The functions of a file, read and not imported."""
    tree = ast.parse((rows.ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_rows__name_tests_that_exist(row):
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in defined(file), test


def test_rows__each_is_one_fault_with_a_test_or_a_reason():
    assert len({row.fault for row in ROWS}) == len(ROWS)
    assert [row.fault for row in ROWS if not row.tests and not row.words] == []
    assert all((rows.ROOT / words.split(": ")[1]).is_file() for words in (rows.KILLS, rows.CUTS))


def test_line__counts_what_ran_and_takes_a_test_that_did_not_run_for_wrong():
    ended = {
        "a.py::test_one": "passed",
        "a.py::test_one_more": "failed",
        "a.py::test_two[x]": "failed",
        "a.py::test_two[y: 1]": "passed",
        "a.py::test_two[z]": "skipped",
    }
    for tests, tries, wrong, message in (
        (("a.py::test_one",), 1, 0, "why"),
        (("a.py::test_two",), 2, 1, "1 skipped; why"),
        (("a.py::test_two[y",), 1, 0, "why"),
        (("a.py::test_three", "a.py::test_one"), 1, 1, "a.py::test_three did not run; why"),
        ((), 0, 0, "why"),
    ):
        expected = {"fault": "f", "tries": tries, "lost": 0, "wrong": wrong, "message": message}
        assert rows.line(Row("f", tests, "why"), ended) == expected


def test_outcomes__are_those_of_pytests_own_record(tmp_path):
    (tmp_path / "tests.xml").write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.a.test_b" name="test_one"/>'
        '<testcase classname="tests.a.test_b" name="test_two[x.y]"><failure message="no"/></testcase>'
        '<testcase classname="tests.a.test_b" name="test_three"><skipped message="no GPU"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert rows.outcomes(tmp_path / "tests.xml") == {
        "tests/a/test_b.py::test_one": "passed",
        "tests/a/test_b.py::test_two[x.y]": "failed",
        "tests/a/test_b.py::test_three": "skipped",
    }
    assert rows.outcomes(Path(tmp_path / "none.xml")) == {}
