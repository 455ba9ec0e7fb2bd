"""One flat, frozen set of fields: what it refuses, and which of them a trained weight depends on."""

import json

import pytest
from pydantic import ValidationError

from kdlib.config import RunConfig

CLIP = {"teacher": "clip", "dataset": "coco"}
# Fields that name where things are or for how long; the content they lead to enters by digest.
ELSEWHERE = {"study", "epochs", "checkpoint", "revision", "data_root", "device", "feature_dtype"}
ELSEWHERE |= {"teacher_precision", "token_grid"}  # in the key of the features
ELSEWHERE |= {"cooldown"}  # a leaf, of which the trunk knows nothing
ELSEWHERE |= {"variant", "score_on", "on_overlap", "linear_probe", "timed_calls"}  # a name, what is scored and timed


def test_config__an_unknown_field_is_an_error_that_names_it():
    with pytest.raises(ValidationError, match="learning_rate"):
        RunConfig(**CLIP, learning_rate=0.1)


def test_config__teacher_and_dataset_must_be_given():
    with pytest.raises(ValidationError, match="teacher"):
        RunConfig(dataset="coco")
    with pytest.raises(ValidationError, match="dataset"):
        RunConfig(teacher="clip")


@pytest.mark.parametrize("field", RunConfig.model_fields)
def test_config__no_field_can_be_set_afterwards(field):
    config = RunConfig(**CLIP)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, getattr(config, field))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("seed", -1),
        ("batch_size", 1),
        ("lr_peak", 0.0),
        ("warmup_steps", 0),
        ("tau", 0.0),
        ("tau", -1.0),
        ("attention_weight", -0.1),
        ("kl_weight", -0.1),
        ("contrastive_weight", -0.1),
        ("weight_decay", -0.1),
        ("width", 1),
        ("heads", 0),
        ("threads", 0),
        ("convnet", "wide"),
        ("precision", "float16"),
        ("feature_dtype", "int8"),
        ("on_bad_image", "ignore"),
        ("epochs", "many"),
        ("epochs", 2.5),
        ("cooldown", 1.5),
        ("crop", 0.0),
        ("clip_norm", -1.0),
        ("anchor_tau", 0.0),
        ("text_side", "words"),
    ],
)
def test_config__a_value_out_of_range_is_an_error_that_names_the_field(field, value):
    with pytest.raises(ValidationError, match=field):
        RunConfig(**CLIP, **{field: value})


def test_config__survives_json():
    config = RunConfig(**CLIP, lr_peak=3e-4, method="cbam", precision="bfloat16")
    assert RunConfig(**json.loads(config.model_dump_json())) == config


def test_config__every_field_says_what_it_is():
    silent = {name for name, field in RunConfig.model_fields.items() if not field.description}
    assert silent <= {"teacher", "dataset"}


def test_training__has_every_field_but_those_that_change_no_weight():
    """Epochs above all: 10 epochs are 5 and 5 more."""
    assert set(RunConfig.model_fields) - set(RunConfig(**CLIP).training()) == ELSEWHERE


@pytest.mark.parametrize("field", ["seed", "method", "tau", "batch_size", "width", "kl_weight", "warmup_steps"])
def test_training__differs_where_a_weight_would(field):
    other = {"seed": 1, "method": "cbam", "tau": 3.0, "batch_size": 8, "width": 32, "kl_weight": 2.0}
    other["warmup_steps"] = 7
    assert RunConfig(**CLIP).training() != RunConfig(**CLIP, **{field: other[field]}).training()


def test_training__is_the_same_at_every_budget_device_and_place():
    moved = {"epochs": 10, "device": "cuda", "study": "other", "data_root": "elsewhere"}
    assert RunConfig(**CLIP).training() == RunConfig(**CLIP, **moved).training()


def test_from_notebook__takes_its_own_names_from_globals_and_leaves_the_rest():
    variables = {"tau": 4.0, "epochs": 3, "np": object(), "In": [], "_": 1, "teacher": "dino", "dataset": "shelf"}
    config = RunConfig.from_notebook(variables, "clip", "coco")
    assert config == RunConfig(**CLIP, tau=4.0, epochs=3)


def test_from_notebook__holds_the_experiment_to_the_same_rules():
    with pytest.raises(ValidationError, match="tau"):
        RunConfig.from_notebook({"tau": -1.0}, "clip", "coco")


@pytest.mark.parametrize(("method", "convnet"), [("resnet", "narrow"), ("vit", "full")])
def test_pretrained__is_refused_where_there_are_no_such_weights(method, convnet):
    """They were ignored, and the result said that the student had seen ImageNet's labels."""
    given = {"teacher": "dino", "dataset": "tinyimagenet", "pretrained": True}
    with pytest.raises(ValueError, match="no ImageNet weights"):
        RunConfig(**given, method=method, convnet=convnet)
    assert RunConfig(**given, method="resnet", convnet="full").pretrained
    assert RunConfig(**given, method="projection", convnet=convnet).pretrained  # it reads no pixels
