"""What a study would take: the sums by hand, what is paid once, and how good a prediction was."""

import json

import pytest
import yaml

from kdlib import study
from kdlib.study import forecast, sizes

METHOD = {"epoch": 0.01, "once": 0.25, "checkpoint": 0.5, "image": 0.02, "alone": 0.1, "call": 0.2, "pixel": 0.001}
TEACHER = {"load": 3.0, "image": 0.1, "call": 0.5, "score": 2.0, "controls": 12.0}
FIXED = {"fixed": 5.0}
EXAM = 20 * 0.02 + 2.0  # of 20 scored scenes
TRAINING = 5 * (36 * 0.01 + 0.5)  # five epochs of 36 scenes, with their checkpoints
EACH = 5.0 + 0.25 + TRAINING + EXAM + 20 * (0.1 + 2 * 0.02)


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


def probes_of(specs, counts=None, workers: int = 1) -> dict[str, dict]:
    """What a probe finds, the same everywhere."""
    methods = {spec.config.method: METHOD | {"bytes": 1000} for spec in specs}
    found = {str(spec.sources): TEACHER | {"methods": methods} for spec in specs}
    return found | {spec.config.dataset: FIXED for spec in specs} | {"all": {"seconds": 7.0}}


def prediction_of(config, workers: int = 1) -> dict:
    specs = study.experiments(config)
    return forecast.predict(specs, sizes.sources_of(specs), probes_of(specs), workers)


def seconds_of(config) -> list[float]:
    return [experiment["seconds"] for experiment in prediction_of(config)["experiments"].values()]


def test_predict__ten_epochs_after_five_are_five_more_and_the_first_of_a_chain_pays_what_it_shares(made):
    first, second = seconds_of(made())
    assert second == pytest.approx(EACH)
    assert first == pytest.approx(EACH + EXAM + 20 * 0.2 + 12.0)  # the untrained student, 20 calls, the controls
    (alone,) = seconds_of(made(epochs=[10]))
    assert alone == pytest.approx(first + TRAINING)


def test_predict__a_cooldown_is_trained_after_each_budget_and_leaves_one_checkpoint(made):
    plain, cooled = (made(parameters={"data_root": made().parameters["data_root"], "batch_size": 12, "timed_calls": 10,
                                      "score_on": "test", "cooldown": share}) for share in (0.0, 0.2))  # fmt: skip
    without, with_leaf = prediction_of(plain)["experiments"], prediction_of(cooled)["experiments"]
    more = [with_leaf[name]["seconds"] - without[name]["seconds"] for name in without]
    assert more == pytest.approx([TRAINING / 5, 2 * TRAINING / 5])
    assert [with_leaf[name]["bytes"] - without[name]["bytes"] for name in without] == [1000, 1000]


def test_predict__controls_are_paid_once_a_teacher_and_pixels_once_a_data_set(made):
    config = made(notebooks={"clip_coco": None, "blip_coco": None}, methods=["resnet", "densenet"], seeds=[0, 1])
    experiments = prediction_of(config)["experiments"]
    chains = 2 * 2 * 2
    shared = chains * (EXAM + 20 * 0.2) + 2 * 12.0 + 56 * 0.001
    assert sum(one["seconds"] for one in experiments.values()) == pytest.approx(2 * chains * EACH + shared)


def test_predict__views_and_extra_images_go_through_the_teacher_and_into_training(made):
    """Two views of 36 scenes and 60 more, which no one draws for it; the plain resnet trains on fit alone."""
    own = {"extra_images": "drawn:60", "crop": 0.8, "views": 2}
    config = made(methods=["resnet"], epochs=[5], variants={"more": {"parameters": own}})
    prediction = prediction_of(config)
    (job,) = prediction["prepare"].values()
    passes = 56 + 60 + 2 * (36 + 60)
    assert job["seconds"] == pytest.approx((4 + 1) * 3.0 + passes * 0.1 + 20 * 0.5)
    plain, more = (one["seconds"] for one in prediction["experiments"].values())
    shared = 12.0 + 56 * 0.001  # the first of them pays
    decoded = 60 + (36 + 60)  # the extra images, and larger pixels of all that are trained on, which views are cut from
    assert more - (plain - shared) == pytest.approx(5 * 60 * 0.01 + decoded * 0.001)
    (source,) = sizes.sources_of(study.experiments(config)).values()
    stores = {name: (images, size) for name, images, size in source.stores}
    assert stores["views"] == (192, 192 * 128 * 2) and stores["extra"][0] == 60
    told = " ".join(forecast.plan(config).split())
    assert "pixels at 48 coco all 56 images" in told and "pixels at 48 coco extra 60 images" in told
    assert "pixels at 54 coco views 96 images" in told  # 48 / sqrt(0.8)
    assert not list(forecast.runs_root().glob("data/drawn*"))


def test_predict__features_are_loaded_for_each_split_and_once_more_to_be_timed(made):
    (job,) = prediction_of(made())["prepare"].values()
    assert job["seconds"] == pytest.approx(3 * 3.0 + 56 * 0.1 + 20 * 0.5)


def test_predict__what_is_left_is_shared_among_workers_but_a_chain_is_never_cut(made, monkeypatch):
    monkeypatch.setattr(forecast, "there", lambda *_: {"features of clip_coco stand-in"})
    config = made(methods=["projection", "bottleneck"])
    one, two, many = (prediction_of(config, workers)["left"] for workers in (1, 2, 9))
    assert one["experiments"] == 4 and one["seconds"] == pytest.approx(sum(seconds_of(config)))
    longest = sum(seconds_of(config)[:2])  # the first chain pays the controls
    assert two["seconds"] == pytest.approx(max(one["seconds"] / 2, longest)) and many["seconds"] == longest
    done = {"features of clip_coco stand-in", "clip_coco projection 5 epochs"}
    monkeypatch.setattr(forecast, "there", lambda *_: done)
    rest = prediction_of(made())["left"]
    assert rest["experiments"] == 1 and rest["seconds"] == pytest.approx(EACH)


def test_predict__what_was_not_measured_is_named_and_the_rest_is_summed(made):
    specs = study.experiments(made(methods=["projection", "cbam"]))
    probes = probes_of(specs)
    probes[str(specs[0].sources)]["methods"]["cbam"] = {"problem": "cbam: RuntimeError: no such layer"}
    prediction = forecast.predict(specs, sizes.sources_of(specs), probes, 1)
    assert prediction["experiments"]["clip_coco cbam 5 epochs"]["seconds"] is None
    known = [job["seconds"] for part in ("experiments", "prepare") for job in prediction[part].values()]
    assert prediction["left"]["seconds"] == pytest.approx(sum(filter(None, known)))
    assert "not predicted: cbam: RuntimeError: no such layer" in "\n".join(forecast._time_lines(prediction))


def test_predict__an_experiment_writes_a_checkpoint_an_epoch(made):
    assert [one["bytes"] for one in prediction_of(made())["experiments"].values()] == [5000, 5000]


def test_plan__is_kept_and_compared_with_what_the_run_took(made):
    text = forecast.plan(made(), probes_of, 2)
    assert "2 at once" in text and "measured in 7 s" in text and "Nothing is missing." in text
    assert forecast.goodness("made") is None  # nothing has run
    predicted = forecast.runs_root() / "made" / forecast.PREDICTED
    experiments = json.loads(predicted.read_text())["experiments"]
    for name, experiment in experiments.items():
        forecast.took("made", name, 2 * experiment["seconds"])
    forecast.took("made", "features of clip_coco stand-in", 3 * 3.0 + 5.6 + 10.0)
    frame = forecast.goodness("made").set_index("method")
    assert frame.loc["projection", "jobs"] == 2
    assert frame.loc["projection", "ratio"] == pytest.approx(0.5, abs=0.01)
    assert frame.loc["projection", "within 30 %"] == 0 and frame.loc["", "within 30 %"] == 1
    assert frame.loc["features", "ratio"] == pytest.approx(1.0)
    assert frame.loc["", "taken"] == pytest.approx(frame.taken[:-1].sum())


def test_plan__without_a_probe_it_has_experiments_and_stores(made):
    text = forecast.plan(made())
    assert "2 experiments:" in text and "36 images" in text and "minutes" not in text


@pytest.mark.parametrize("teacher", ["own_teacher:Own", "own_teacher:Other", "no_such_file:Own"])
def test_plan__a_teacher_of_ones_own_that_cannot_be_had_is_said_and_the_rest_is_planned(
    made, monkeypatch, tmp_path, teacher
):
    (tmp_path / "own_teacher.py").write_text("class Own:\n    DEFAULT = './gone'\n")
    monkeypatch.syspath_prepend(tmp_path)
    whole = study.experiments(made())
    given = whole[0].config.model_copy(update={"teacher": teacher, "checkpoint": ""})
    own = whole[0].model_copy(update={"config": given, "notebook": "own_coco"})
    monkeypatch.setattr(study, "experiments", lambda config: [own, *whole])
    text = forecast.plan(made(), probes_of)
    assert f"teacher {teacher.split(':')[0]}" in text.split("Missing on this machine:")[1]
    assert "not predicted: 1 experiments whose teacher is not here" in text
    assert "About 1." in text or "About 0." in text


def test_plan__before_the_data_is_there_it_is_that_of_the_full_set_measured_on_drawn_images(made, tmp_path):
    asked = []

    def measure(specs, counts, workers):
        asked.extend(specs)
        return probes_of(specs, counts, workers)

    gone = str(tmp_path / "gone")
    text = forecast.plan(made(parameters={"data_root": gone, "batch_size": 12, "timed_calls": 10}), measure)
    assert [spec.config.data_root for spec in asked] == ["shapes", "shapes"]
    assert "113287 images" in text and "not predicted" not in text and "for the 2 experiments left" in text
    assert "Measured on drawn images, as those of coco are not here." in text
    assert f"coco in {gone}: get it with" in text
