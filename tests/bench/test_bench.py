"""The benches' arithmetic and their report; what they measure is only measured by running them."""

import mmap
import time

import torch

from kdlib import bench, students
from kdlib.bench import exported, measure, memory, page, scoring
from kdlib.bench.measure import Row, Setting
from kdlib.export.graph import ImageTower
from kdlib.files import read_json, reports_root
from kdlib.students import StudentSpec


def row(ratio: float, bar: float | None, at_most: bool = False) -> Row:
    return Row("one thing", "another", ratio, bar, ratio, 1.0, "s", at_most)


def test_row__meets_its_bar_from_the_right_side():
    assert row(2.0, 1.8).met and not row(1.7, 1.8).met
    assert row(1.0, 1.1, at_most=True).met and not row(1.2, 1.1, at_most=True).met
    assert row(0.1, None).met
    assert "NOT MET" in str(row(1.7, 1.8)) and "at least 1.8" in str(row(1.7, 1.8))


def test_in_turns__each_call_warms_up_once_and_they_alternate():
    calls = []
    measure.in_turns(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2)
    assert "".join(calls) == "ababab"


def test_run__replaces_a_benchs_own_rows_and_keeps_the_others(monkeypatch):
    made = iter([1.0, 5.0, 2.0])
    for name in ("search", "memory"):
        monkeypatch.setitem(bench.BENCHES, name, lambda setting: [row(next(made), 1.5)])
    for names in (["search"], ["memory"], ["search"]):
        list(bench.run(names, Setting(threads=torch.get_num_threads())))
    rows = read_json(reports_root() / "bench" / "bench.json")["rows"]
    assert [(entry["bench"], entry["ratio"]) for entry in rows] == [("search", 2.0), ("memory", 5.0)]
    assert rows[0]["images"] == "drawn shapes"
    assert all(entry["versions"]["torch"] and entry["hardware"]["cores"] for entry in rows)


def test_reach__is_above_one_where_a_bar_is_met_on_either_side(monkeypatch):
    rows = [row(3.6, 1.8), row(0.55, 1.1, at_most=True), row(2.2, 1.1, at_most=True), row(1.0, None)]
    monkeypatch.setitem(bench.BENCHES, "search", lambda setting: rows)
    list(bench.run(["search"], Setting(threads=torch.get_num_threads())))
    found = page.frame(page.read())
    assert found.reach.iloc[:3].round(6).tolist() == [2.0, 2.0, 0.5] and found.reach.isna().iloc[3]
    drawn = page.draw(found.dropna(subset="bar"))
    assert len(drawn.axes[0].get_yticklabels()) == 3


def test_search__measures_the_product_of_the_same_chunks():
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    made = scoring._row("small", lambda: None, (vectors, vectors, 16), rounds=1)
    assert made.at_most and made.bar == 2.0 and made.theirs > 0


def test_peak__sees_memory_that_was_freed_again():
    size = 256 * 2**20
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # torch's blocks may be used ones
    with memory.Peak() as peak:
        before = memory.anonymous()
        pages[::4096] = bytes(size // 4096 - 1) + b"1"
        deadline = time.monotonic() + 60  # the watching thread waits its turn on a busy machine
        while peak.bytes < before + size // 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        pages.close()
        freed = memory.anonymous()
    assert peak.bytes > before + size // 2 > freed


def test_exported__a_student_is_held_against_each_teacher_and_its_own_twin(monkeypatch, tmp_path):
    """A narrow network in the place of all others: what is measured is only measured by running the bench."""
    spec = StudentSpec(teacher_width=8, width=8, convnet="narrow")
    monkeypatch.setattr(exported, "STUDENTS", (("resnet", 64),))
    monkeypatch.setattr(exported, "ROUNDS", 1)
    monkeypatch.setattr(exported, "_student", lambda method, size: ImageTower(students.build(method, spec)))
    monkeypatch.setattr(exported, "TeacherImage", lambda teacher: exported._student("resnet", 224))
    monkeypatch.setattr(exported.teachers, "load", lambda family, folder: None)
    for name in ("dino_checkpoint", "clip_checkpoint"):
        monkeypatch.setattr(exported.fullsize, name, lambda setting: tmp_path)
    rows = exported.run(Setting(threads=torch.get_num_threads()))
    assert [row.bar for row in rows] == [20.0, 20.0, 3.9]
    assert all(row.ratio > 0 and "int8" in f"{row.note} {row.what}" for row in rows)
    assert rows[-1].ratio == rows[-1].theirs / rows[-1].ours > 3
