"""Study files, plans, states, tables and the command line."""

import json
import os
import shutil

import pytest
import yaml
from typer.testing import CliRunner

from kdlib import cli, study, teachers
from kdlib.experiment import run_dir
from kdlib.report import rows, scores
from kdlib.study import forecast, sizes
from kdlib.study.file import StudyError, studies_folder
from kdlib.teachers import check

GOOD = {"study": "s", "title": "t", "notebooks": {"clip_coco": {"tau": 3.0}}, "parameters": {"tau": 2.0}}
GOOD |= {"seeds": [0]}


def load(tmp_path, **fields) -> study.StudyConfig:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(GOOD | fields))
    return study.load(path)


def test_mini__is_the_48_experiments_of_the_study_and_its_controls():
    experiments = study.experiments(study.load(studies_folder() / "mini.yaml"))
    assert len({experiment.name for experiment in experiments}) == len(experiments) == 48 + 16 + 8 + 8
    assert len([experiment for experiment in experiments if not experiment.config.variant]) == 48
    assert {experiment.config.teacher for experiment in experiments} == {"clip", "blip", "dino", "beit"}
    assert {experiment.config.epochs for experiment in experiments} == {5, 10}


@pytest.mark.parametrize("path", sorted(studies_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_study_files__are_valid_and_named_after_their_study(path):
    assert study.load(path).study == path.stem


def test_paper__has_the_studys_sizes():
    config = study.experiments(study.load(studies_folder() / "paper.yaml"))[0].config
    assert (config.width, config.bottleneck, config.convnet, config.checkpoint) == (256, 128, "full", "")


def test_experiments__the_more_special_parameter_wins(tmp_path):
    made = study.experiments(load(tmp_path, methods=["projection", "cbam"], by_method={"cbam": {"tau": 5.0}}))
    assert {experiment.config.method: experiment.config.tau for experiment in made} == {"projection": 3.0, "cbam": 5.0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameters": {"lr": 1}}, r"(?s)lr: Extra inputs .*Known parameters: .*lr_peak"),
        ({"epoch": [5]}, "epoch: Extra inputs"),
        ({"notebooks": {"clip": None}}, "not named <teacher>_<dataset>"),
        ({"epochs": [0]}, "epochs: Input should be greater than or equal to 1"),
        ({"study": "a/b"}, "study: .*cannot name a folder"),
        ({"variants": {"v": {"parameters": {"lr": 1}}}}, "lr: Extra inputs"),
        ({"variants": {"v": {"parameters": {}, "notebooks": ["blip_coco"]}}}, "names notebooks that the study lacks"),
    ],
)
def test_load__says_what_is_wrong_with_a_study(tmp_path, fields, words):
    with pytest.raises(StudyError, match=words):
        load(tmp_path, **fields)


def test_variants__are_further_experiments_in_folders_and_pages_of_their_own(tmp_path):
    variants = {"plain": {"methods": ["resnet"], "parameters": {"objective": "no_teacher", "tau": 9.0}}}
    made = study.experiments(load(tmp_path, methods=["projection", "resnet"], epochs=[5], variants=variants))
    assert [(experiment.config.folder, experiment.config.tau) for experiment in made] == [
        ("projection", 3.0),
        ("resnet", 3.0),
        ("resnet+plain", 9.0),
    ]
    assert (
        len({experiment.page for experiment in made})
        == len({experiment.chain for experiment in made})
        == len({experiment.name for experiment in made})
        == 3
    )


def test_variants__have_epochs_and_seeds_of_their_own_but_no_seed_that_the_study_lacks(tmp_path):
    variants = {"short": {"parameters": {"tau": 9.0}, "epochs": [3], "seeds": [0, 5]}}
    made = study.experiments(load(tmp_path, methods=["projection"], epochs=[5, 10], seeds=[0, 1], variants=variants))
    own = [(one.config.epochs, one.config.seed) for one in made if one.config.variant]
    assert own == [(3, 0)] and len(made) == 4 + 1


def test_variants__share_the_feature_store_unless_their_teacher_is_another(tmp_path):
    variants = {
        "tau_1": {"methods": ["projection"], "parameters": {"tau": 1.0}},
        "heads": {"methods": ["projection"], "parameters": {"untrained_heads": True}},
    }
    made = {
        experiment.config.variant: experiment
        for experiment in study.experiments(load(tmp_path, methods=["projection"], variants=variants))
    }
    assert made[""].sources == made["tau_1"].sources != made["heads"].sources


def test_seeds__are_three_unless_the_file_or_the_command_line_says_otherwise(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in GOOD.items() if name != "seeds"}))
    assert study.load(path).seeds == (0, 1, 2)
    assert study.load(path, seeds=2).seeds == (0, 1)
    assert load(tmp_path, seeds=[7]).seeds == (7,)


def test_load__an_absent_file_lists_those_that_exist(tmp_path):
    with pytest.raises(StudyError, match=r"mini\.yaml"):
        study.load(tmp_path / "none.yaml")


def test_data_root__replaces_the_files(tmp_path):
    load(tmp_path)
    config = study.load(tmp_path / "study.yaml", data_root=str(tmp_path))
    assert {experiment.config.data_root for experiment in study.experiments(config)} == {str(tmp_path.resolve())}


def test_plan__lists_experiments_stores_and_what_is_missing(monkeypatch):
    monkeypatch.setattr(teachers, "find", lambda *_: None)
    monkeypatch.setattr(check, "_absent", lambda name, *_: check.Standing(name, note="to be downloaded, 605.2 MB"))
    text = forecast.plan(study.load(studies_folder() / "paper.yaml"))
    assert "216 experiments" in text and "113287 images" in text
    assert "teacher clip, openai/clip-vit-base-patch32 at c237dc49a33f: to be downloaded, 605.2 MB" in text
    assert "kdlib data get coco" in text


def test_plan__predicts_a_stores_bytes(small_run):
    """What is planned for the small data is what its store takes, but for headers and the mean caption length."""
    from kdlib.sources import load_data, teacher_store

    config = small_run("dino")
    dataset = load_data(config)["test"]
    for tokens in (False, True):
        store = teacher_store(config, dataset, tokens)
        assert sizes.store_bytes(len(dataset), 0, 64, 128, 0, 2, tokens) == pytest.approx(store.bytes, rel=0.03)


def row(**fields) -> dict:
    return {"teacher": "clip", "dataset": "coco", "method": "projection", "epochs": 5, "outcome": "ok"} | fields


def test_figure__has_the_studys_layout_and_its_outcomes():
    printed = scores.printed_table("tinyimagenet")
    assert list(printed.columns) == ["projection", "bottleneck", "attention", "resnet", "densenet"]
    assert printed.loc["dino, 5 epochs", "projection"] == "1.0000"
    assert printed.loc["dino, 10 epochs", "resnet"] == "out of memory"
    assert scores.printed_table("coco").loc["clip, 10 epochs", "cbam"] == "0.7234"


def test_paper_results__are_the_studys():
    frame = scores.paper()
    assert len(frame) == 44 and (frame.outcome == "out_of_memory").sum() == 4
    assert frame[(frame.teacher == "blip") & (frame.method == "cbam")].accuracy.tolist() == [0.4864, 0.6634]


# ---------------------------------------------------------------- the command line


def test_cli__every_command_has_help_worth_reading():
    for words in (["run"], ["status"], ["report"], ["data"], ["data", "get"], ["data", "check"]):
        result = CliRunner().invoke(cli.app, [*words, "--help"])
        assert result.exit_code == 0 and len(result.output) > 300, words


def test_cli__status_lists_experiments_and_reads_no_result_as_absent(tmp_path, small_shapes):
    load(tmp_path, methods=["projection"], parameters={"data_root": str(small_shapes)})
    result = CliRunner().invoke(cli.app, ["status", str(tmp_path / "study.yaml")])
    assert "absent         clip_coco projection 5 epochs" in result.output and "2 absent" in result.output


def test_cli__status_names_who_works_on_an_experiment_that_runs(tmp_path, small_shapes):
    config = load(tmp_path, methods=["projection"], epochs=[5], parameters={"data_root": str(small_shapes)})
    (spec,) = study.experiments(config)
    with run_dir(spec.config).writing(spec.config.model_dump(), "0" * 64, "training"):
        output = CliRunner().invoke(cli.app, ["status", str(tmp_path / "study.yaml")]).output
    assert "running        clip_coco projection 5 epochs" in output and f"(process {os.getpid()}) since" in output


def test_cli__an_error_is_a_sentence_and_exit_code_two(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["kdlib", "status", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("kdlib: There is no study file")


def test_cli__data_check_lists_unreadable_images(tmp_path, small_shapes):
    copy = tmp_path / "copy"
    shutil.copytree(small_shapes, copy)
    broken = next((copy / "coco" / "val2017").glob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:100])
    result = CliRunner().invoke(cli.app, ["data", "check", "coco", str(copy)])
    assert result.exit_code == 1 and broken.name in result.output and "1 found" in result.output


def test_learning_rate__rises_to_the_peak_and_falls_as_the_root():
    from kdlib.trainer import learning_rate

    rates = [learning_rate(step, 0.1, 10) for step in (1, 5, 10, 40, 1000)]
    assert rates == pytest.approx([0.01, 0.05, 0.1, 0.05, 0.01])


def test_results__are_written_whole(tmp_path):
    rows.write([row(student=0.5), row(outcome="failed", error="x")], tmp_path)
    assert len(rows.read(tmp_path)) == 2
    assert json.loads((tmp_path / "results.json").read_text())[1]["student"] is None
    with pytest.raises(FileNotFoundError, match="no results yet"):
        rows.read(tmp_path / "nowhere")


def test_paper__reads_its_data_where_kdlib_data_get_puts_them(monkeypatch, tmp_path):
    """Also where KDLIB_RUNS is another disk: the full study needs no edit."""
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "elsewhere"))
    paper = study.load(studies_folder() / "paper.yaml")
    assert {spec.config.data_root for spec in study.experiments(paper)} == {str(tmp_path / "elsewhere" / "data")}
    assert {spec.config.on_overlap for spec in study.experiments(paper)} == {"drop"}


@pytest.mark.parametrize(
    ("teacher", "other"),
    [
        ("dino", {"objective": "feature_regression", "extra_images": "drawn:20"}),
        ("clip", {"objective": "feature_regression", "cooldown": 0.5}),
    ],
)
def test_inspector__tells_experiments_that_read_other_data_apart(small_run, teacher, other):
    """Asked for both in one run, it has the keys that each has alone."""
    from kdlib.study.status import Inspector

    plain, more = small_run(teacher, method="resnet"), small_run(teacher, method="resnet", **other)
    specs = [study.ExperimentSpec(notebook="any", config=config) for config in (plain, more)]
    inspector = Inspector()
    together = [inspector.keys(spec)["experiment"] for spec in specs]
    assert together == [Inspector().keys(spec)["experiment"] for spec in specs] and together[0] != together[1]
