"""What a study would take: the sums by hand, what is paid once, and how good a prediction was."""

import json

import pytest
import yaml

from kdlib import study
from kdlib.study import forecast
from kdlib.teachers import check

STUDENT = {"once": 0.0, "step": 0.1, "checkpoint": 0.5, "bytes": 1000, "image": 0.01, "call": 0.2, "singly": 0.0}
RATES = {
    "experiment": {"fixed": 5.0},
    "student": STUDENT,
    "exam": {"once": 0.0, "score": 2.0, "write": 0.0},
    "teacher": {"once": 3.0, "image": 0.1, "call": 0.5},
    "pixels": {"image": 0.001},
}


@pytest.fixture
def made(tmp_path, small_shapes):
    """``made(**fields)``: a study of 36 + 20 scenes, in batches of 12, with ten timed calls after ten to warm up."""

    def make(**fields) -> study.StudyConfig:
        content = {"study": "made", "title": "Made", "notebooks": {"clip_coco": None}, "methods": ["projection"],
                   "epochs": [5, 10], "seeds": [0]}  # fmt: skip
        parameters = {"data_root": str(small_shapes), "batch_size": 12, "timed_calls": 10}
        path = tmp_path / "made.yaml"
        path.write_text(yaml.safe_dump(content | {"parameters": parameters} | fields))
        return study.load(path)

    return make


def rates_of(works) -> forecast.Rates:
    return {key: RATES[kind] for work in works for kind, key in work.keys.items()}


def seconds_of(config, done=frozenset()) -> dict[str, dict]:
    works = forecast.works_of(study.experiments(config))[0]
    return forecast.experiment_seconds(works, rates_of(works), done)


def test_plan__ten_epochs_after_five_are_five_more(made):
    first, second = seconds_of(made()).values()
    training = 5 * (3 * 0.1 + 0.5)  # epochs x (steps of 12 among 36 images + a checkpoint)
    assert first["parts"]["training"] == pytest.approx(training)
    assert second["parts"]["training"] == pytest.approx(training)
    alone = seconds_of(made(epochs=[10]))
    assert next(iter(alone.values()))["parts"]["training"] == pytest.approx(2 * training)


def test_plan__a_chain_pays_its_untrained_student_and_its_timed_calls_once(made):
    first, second = seconds_of(made()).values()
    scores = 20 * 0.01 + 2.0
    assert first["parts"]["untrained"] == first["parts"]["scores"] == pytest.approx(scores)
    assert first["parts"]["timing"] == pytest.approx(20 * 0.2)
    assert second["seconds"] == pytest.approx(5.0 + 4.0 + scores)


def test_plan__controls_are_paid_once_a_teacher_and_pixels_once_a_data_set(made):
    config = made(notebooks={"clip_coco": None, "blip_coco": None}, methods=["resnet", "densenet"], seeds=[0, 1])
    experiments = seconds_of(config)
    with_controls = [name for name, experiment in experiments.items() if "controls" in experiment["parts"]]
    assert sorted(name.split("_")[0] for name in with_controls) == ["blip", "clip"]
    assert sum(experiment["parts"].get("controls", 0) for experiment in experiments.values()) == pytest.approx(24)
    assert sum(experiment["parts"].get("pixels", 0) for experiment in experiments.values()) == pytest.approx(56 * 0.001)


def test_plan__what_is_done_is_not_paid_again(made):
    left = seconds_of(made(), frozenset({"clip_coco projection 5 epochs"}))
    assert list(left) == ["clip_coco projection 10 epochs"]
    assert set(left["clip_coco projection 10 epochs"]["parts"]) == {"notebook and page", "training", "scores"}


def test_wall__features_first_then_the_longest_chain_whose_features_are_there():
    chains = [("a", [3.0]), ("a", [2.0, 3.0]), ("b", [6.0])]
    prepare = {"a": 4.0, "b": 2.0}
    assert forecast.wall(prepare, chains, 1) == 4 + 2 + 3 + 2 + 3 + 6
    # a 0-4, b 0-2; the six 2-8; two of the chain 4-6, its three 6-9 for it is still the longest; the last three 8-11
    assert forecast.wall(prepare, chains, 2) == 11
    # a chain is never in two slots
    assert forecast.wall(prepare, chains, 9) == 9
    assert forecast.wall({}, chains, 9) == 6  # features that are there keep nobody waiting


def test_plan__what_was_not_measured_is_named_and_the_rest_is_summed(made):
    works = forecast.works_of(study.experiments(made(methods=["projection", "cbam"])))[0]
    rates = rates_of(works) | {works[-1].keys["student"]: {"problem": "student: RuntimeError: no such layer"}}
    prediction = forecast.predict(works, rates, 1)
    assert prediction["experiments"]["clip_coco cbam 5 epochs"]["seconds"] is None
    assert prediction["left"]["seconds"] == pytest.approx(
        sum(experiment["seconds"] or 0 for experiment in prediction["experiments"].values())
        + prediction["prepare"]["features of clip_coco stand-in"]["seconds"]
    )
    assert "not predicted: student: RuntimeError: no such layer" in "\n".join(forecast._time_lines(prediction))


def test_plan__is_kept_and_compared_with_what_the_run_took(made):
    text = forecast.plan(made(), lambda works, workers: rates_of(works) | {"calibration": {"seconds": 7.0}}, 2)
    assert "2 at a time" in text and "measured in 7 s" in text
    assert forecast.goodness("made") is None  # nothing has run
    predicted = forecast.runs_root() / "made" / forecast.PREDICTED
    experiments = json.loads(predicted.read_text())["experiments"]
    for name, experiment in experiments.items():
        forecast.took("made", name, 2 * experiment["seconds"])
    forecast.took("made", "features of clip_coco stand-in", 3.0 + 5.6 + 10.0)
    frame = forecast.goodness("made").set_index("method")
    assert frame.loc["projection", "jobs"] == 2
    assert frame.loc["projection", "ratio"] == pytest.approx(0.5, abs=0.01)
    assert frame.loc["projection", "within 30 %"] == 0 and frame.loc["", "within 30 %"] == 1
    assert frame.loc["features", "ratio"] == pytest.approx(1.0)
    assert frame.loc["", "taken"] == pytest.approx(frame.taken[:-1].sum())


def test_plan__without_a_calibration_it_has_experiments_and_stores(made):
    text = forecast.plan(made())
    assert "2 experiments:" in text and "36 images" in text and "minutes" not in text


def test_plan__an_experiment_writes_a_checkpoint_an_epoch_and_its_embeddings(made):
    config = made()
    experiments = seconds_of(config)
    embeddings = (20 + 100) * study.experiments(config)[0].config.width * 4  # 20 scenes, five captions each
    assert [experiment["bytes"] for experiment in experiments.values()] == [
        5 * 1000 + embeddings,
        5 * 1000 + embeddings,
    ]


def test_plan__a_teacher_of_ones_own_that_is_not_here_is_taken_for_a_vit(made, monkeypatch, tmp_path):
    (tmp_path / "own_teacher.py").write_text("class Own:\n    DEFAULT = 'somebody/own-teacher'\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = study.experiments(made())[0]
    own = spec.model_copy(
        update={"config": spec.config.model_copy(update={"teacher": "own_teacher:Own", "checkpoint": ""})}
    )
    monkeypatch.setattr(check, "_absent", lambda name, *_: check.Standing(name, note="to be downloaded"))
    works, missing = forecast.works_of([own])
    assert (works[0].tokens, works[0].width) == (196, 768)
    assert "somebody/own-teacher" in missing[0] and "taken for a ViT-B/16" in missing[0]
