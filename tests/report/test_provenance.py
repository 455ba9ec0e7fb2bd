"""What a report says of where its numbers come from, and how to make them again."""

from importlib import metadata

import pytest

from kdlib import study
from kdlib.experiment import run_dir
from kdlib.files import runs_root, seal, write_json
from kdlib.report import provenance
from kdlib.study.file import StudyConfig, experiments


@pytest.fixture
def small() -> StudyConfig:
    content = {"study": "s", "title": "A study", "notebooks": {"clip_coco": {"lr_peak": 0.02}}, "seeds": [0, 1]}
    return StudyConfig(**content, methods=["projection"], epochs=[5], by_method={"projection": {"width": 32}})


def record(spec, commit: str = "abc") -> dict:
    finished = f"2026-01-0{1 + spec.config.seed}T00:00:00Z"
    made = {"versions": {"kdlib": "0.1.0", "commit": commit, "torch": "2.9.0"}, "hardware": {"name": "CPU"}}
    return made | {"config": spec.config.model_dump(), "finished": finished}


def collected(small: StudyConfig, commits=("abc", "abc")) -> dict:
    grid = experiments(small)
    for spec, commit in zip(grid, commits, strict=True):
        write_json(run_dir(spec.config).result_path(5), seal(record(spec, commit)))
    return provenance.collect(small, grid, run_dir, [{"outcome": "ok"} for _ in grid])


def test_collect__counts_versions_and_hardware_and_has_each_configuration_once(small):
    found = collected(small)
    assert found["versions"] == [{"kdlib": "0.1.0", "commit": "abc", "torch": "2.9.0", "experiments": 2}]
    assert found["hardware"] == [{"name": "CPU", "experiments": 2}]
    (entry,) = found["configs"]
    assert (entry["method"], entry["config"]["lr_peak"], entry["config"]["width"]) == ("projection", 0.02, 32)
    assert (found["from"], found["to"]) == ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")


def test_collect__experiments_of_other_commits_are_told_apart(small):
    assert [entry["commit"] for entry in collected(small, ("abc", "def"))["versions"]] == ["abc", "def"]


def test_collect__experiments_without_a_result_say_nothing(small):
    grid = experiments(small)
    found = provenance.collect(small, grid, run_dir, [{"outcome": "absent"}, {"outcome": "error"}])
    assert found["versions"] == [] and found["configs"] == [] and found["from"] == ""


def test_write__the_study_file_runs_the_same_experiments(small, tmp_path):
    provenance.write(collected(small), tmp_path)
    assert experiments(study.load(tmp_path / "study.yaml")) == experiments(small)


def test_write__seeds_of_the_command_line_are_in_the_study_file(tmp_path):
    """The embedded study as the Makefile runs it with three seeds."""
    config = study.load(study.studies_folder() / "mini.yaml", seeds=3)
    provenance.write(provenance.collect(config, [], run_dir, []), tmp_path)
    assert experiments(study.load(tmp_path / "study.yaml")) == experiments(config)


def test_write__the_lock_names_what_pip_can_install(small, tmp_path):
    provenance.write(collected(small), tmp_path)
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines)
    assert pinned["torch"] == "2.9.0"  # as it was run, whatever is installed now
    assert pinned["scipy"] == metadata.version("scipy") and "contourpy" in pinned  # which only matplotlib needs
    assert not {"kdlib", "pytest", "experiments", "commit"} & set(pinned) and len(pinned) == len(lines)


def test_read__gives_what_was_written_and_is_empty_without_it(small, tmp_path):
    assert provenance.read(tmp_path)["versions"] == []
    provenance.write(collected(small), tmp_path)
    assert provenance.read(tmp_path) == collected(small)


def test_collect__has_what_the_last_verification_found(small):
    assert collected(small)["verified"] == {}
    found = {"when": "2026-01-03T00:00:00Z", "results": 2, "recomputed": 1, "problems": []}
    write_json(runs_root() / small.study / "verified.json", seal(found))
    assert collected(small)["verified"]["when"] == "2026-01-03T00:00:00Z"
