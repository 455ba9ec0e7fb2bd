"""Study files: what they list, and what is said of a wrong one."""

import json
from pathlib import Path

import pytest
import small_study
import yaml

from kdlib import status, study
from kdlib.utils import project_root

STUDIES = project_root() / "notebooks/studies"
GOOD = {"study": "s", "title": "t", "notebooks": {"clip_coco": {"tau": 3.0}}, "parameters": {"tau": 2.0}, "seeds": [0]}
GOOD |= {"reports": ["clip_coco"]}


def load(folder: Path, more: str = "", /, **fields) -> study.Study:
    (folder / "s.yaml").write_text(yaml.safe_dump(GOOD | fields) + more, encoding="utf-8")
    return study.load(folder / "s.yaml")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_study_files__are_valid_named_after_their_study_and_point_nowhere_else(path):
    found = study.load(path)
    assert found.study == path.stem and ".." not in path.read_text(encoding="utf-8")
    assert all(planned.config.study == path.stem for planned in found.experiments())


def test_mini__is_every_method_of_every_teacher_with_its_variants_in_a_notebook_each():
    planned = study.load(STUDIES / "mini.yaml").experiments()
    assert len({one.name for one in planned}) == len(planned) == 24 + 8 + 4 + 4
    assert {one.config.teacher for one in planned} == {"clip", "blip", "dino", "beit"}
    assert {tuple(one.config.epochs) for one in planned} == {(5, 10)}
    assert {one.config.variant for one in planned} == {"", "supervised", "random_heads", "self_contained"}


def test_evening__has_all_test_images_5000_to_train_on_four_heads_and_a_resnet_of_published_teachers():
    planned = study.load(STUDIES / "evening.yaml").experiments()
    assert {one.config.method for one in planned} == {"projection", "bottleneck", "attention", "cbam", "resnet"}
    assert {(one.config.train_limit, one.config.checkpoint, one.config.seed) for one in planned} == {(5000, "", 0)}
    assert {one.config.convnet for one in planned} == {"full"}


def test_experiments__the_more_special_parameter_wins(tmp_path):
    variants = {"plain": {"methods": ["cbam"], "parameters": {"tau": 9.0}, "epochs": 7}}
    planned = load(tmp_path, methods=["projection", "cbam"], by_method={"cbam": {"tau": 5.0}}, variants=variants)
    found = {one.config.folder: (one.config.tau, one.config.epochs) for one in planned.experiments()}
    assert found == {"projection": (3.0, [5, 10]), "cbam": (5.0, [5, 10]), "cbam+plain": (9.0, [7])}


def test_experiments__seeds_and_data_root_are_replaced_and_a_variant_keeps_its_own_seeds(tmp_path):
    load(tmp_path, methods=["projection"], variants={"once": {"seeds": [0]}})
    (tmp_path / "data").mkdir()
    planned = study.load(tmp_path / "s.yaml", data_root=str(tmp_path / "data"), seeds=2).experiments()
    assert [one.name for one in planned] == [
        "clip_coco projection",
        "clip_coco projection seed 1",
        "clip_coco projection+once",
    ]
    assert {one.config.data_root for one in planned} == {str(tmp_path / "data")}


def test_paths__are_relative_to_the_file_where_they_exist_there_else_to_the_working_directory(tmp_path, monkeypatch):
    for place in ("studies/images", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = {"data_root": "images", "checkpoint": "./my-vit", "extra_images": "shapes:20"}
    (one,) = load(tmp_path / "studies", methods=["projection"], parameters=given).experiments()
    assert one.config.data_root == str(tmp_path / "studies/images")
    assert one.config.checkpoint == str(tmp_path / "elsewhere/my-vit")
    assert one.config.extra_images == "shapes:20"


def test_notebook__its_own_says_teacher_and_data_set_and_a_parameter_may_name_another_data_set(tmp_path):
    path = small_study.write(tmp_path, notebooks={"tiny": {"dataset": "folder"}})
    (one,) = study.load(path).experiments()
    assert one.notebook == tmp_path / "tiny.ipynb" and one.name == "clip_folder projection"
    book = json.loads((tmp_path / "tiny.ipynb").read_text(encoding="utf-8"))
    (tmp_path / "dino_coco.ipynb").write_text(json.dumps(book | {"metadata": {}}), encoding="utf-8")
    (one,) = study.load(small_study.write(tmp_path, notebooks={"dino_coco": None})).experiments()
    assert (one.config.teacher, one.config.dataset) == ("dino", "coco")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parameters": {"lr": 1}}, r"parameters: there is no parameter 'lr'\. Known: anchor_weight, .*width\.$"),
        ({"by_method": {"cbam": {"lr_peek": 1}}}, r"by_method\.cbam: there is no .* Did you mean lr_peak\?"),
        ({"parameters": {"seed": 1}}, r"'seed' is no parameter: the entry 'seeds' sets it"),
        ({"epoch": [5]}, r"epoch: there is no such entry\. Did you mean epochs\? Known: by_method, "),
        ({"variants": {"v": {"method": []}}}, r"variants\.v\.method: there is no such entry\. Did you mean methods\?"),
        (
            {"variants": {"v": {"notebooks": ["blip_coco"]}}},
            r"variants\.v: the study lacks blip_coco; it has clip_coco",
        ),
        ({"epochs": [0]}, r"epochs\.0: input should be greater than or equal to 1, not 0\.$"),
        ({"methods": "cbam"}, r"methods: input should be a valid list, not 'cbam'"),
        ({"parameters": {"tau": -1}, "notebooks": {"clip_coco": None}}, r"clip_coco projection: tau: .* not -1\.$"),
        ({"notebooks": {"clip_cocoa": None}}, r"there is no notebook .*clip_cocoa\.ipynb or .*notebooks"),
        ({"reports": ["rapport"]}, r"there is no notebook .*rapport\.ipynb"),
        ({"notebooks": ["clip_coco"]}, r"notebooks: input should be a valid dictionary"),
        ({"seeds": [0, 0]}, r"two experiments are 'clip_coco projection'"),
        (
            {"by_method": {"resnet": {}}, "methods": ["cbam"]},
            r"by_method: the study has no method 'resnet'; it has cbam",
        ),
        ({"study": "a/b"}, r"study: string should match pattern .*, not 'a/b'"),
        ({"memory_gb": float("nan")}, r"memory_gb: input should be a finite number, not nan"),
    ],
)
def test_load__what_is_wrong_is_a_sentence_with_the_file_the_name_and_the_choices(tmp_path, fields, words):
    with pytest.raises(ValueError, match=words) as caught:
        load(tmp_path, **fields)
    assert str(caught.value).startswith(f"{tmp_path / 's.yaml'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("seeds: [1]\n", r"'seeds' is there twice"),
        ("parameters: [\n", r"expected the node content"),
        ("1: 2\n", r"1: keys should be strings"),
    ],
)
def test_load__what_yaml_would_take_or_cannot_read_is_said(tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        load(tmp_path, more)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"methods": ["prjection"]}, r"no student 'prjection'\. Did you mean projection\? Known: attention, "),
        ({"parameters": {"objective": "labels+logits"}}, r"no loss 'logits'\. .*Known: anchor_kl, "),
        ({"parameters": {"dataset": "cocoo"}}, r"no data set 'cocoo'\. Did you mean coco\?"),
    ],
)
def test_prepared__a_name_that_nothing_has_is_said_before_anything_runs(tmp_path, small_shapes, fields, words):
    parameters = {"data_root": str(small_shapes)} | fields.pop("parameters", {})
    with pytest.raises(KeyError, match=words):
        status.prepared(load(tmp_path, notebooks={"clip_coco": None}, parameters=parameters, **fields))


def test_load__a_file_that_is_not_there_or_no_mapping_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"There is no study file .*none\.yaml\. In notebooks/studies: .*mini\.yaml"):
        study.load(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"it is no study: it needs the entries 'study', 'title' and 'notebooks'"):
        study.load(tmp_path / "list.yaml")


def test_load__reads_utf8_whatever_the_locale(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_bytes(yaml.safe_dump(GOOD | {"title": "Schüler"}, allow_unicode=True).encode())
    assert study.load(tmp_path / "s.yaml").title == "Schüler"
