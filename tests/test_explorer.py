"""The explorer without a browser: its widgets' values, and what they change."""

import html
import io
import re
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from kdlib import explorer, teachers
from kdlib.config import RunConfig
from kdlib.experiment import Experiment
from kdlib.explorer import Explorer

RUNS = {
    "CLIP, COCO: Attention": {"teacher": "clip", "dataset": "coco", "method": "attention"},
    "CLIP, COCO: ResNet": {"teacher": "clip", "dataset": "coco", "method": "resnet", "text_side": "transformer"},
    "DINO, photos: ResNet": {"teacher": "dino", "dataset": "folder", "method": "resnet"},
    "CLIP, photos: Projection": {"teacher": "clip", "dataset": "folder", "method": "projection"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_shapes):
    """Finished runs of four kinds; 'photos' is a user's own folder with four classes."""
    root, photos = tmp_path_factory.mktemp("explorer") / "runs", tmp_path_factory.mktemp("own") / "photos"
    for folder in sorted(small_shapes.glob("tiny-imagenet-200/train/*"))[:4]:
        shutil.copytree(folder / "images", photos / folder.name)
    small = {"study": "small", "batch_size": 16, "epochs": 1, "image_size": 32, "timed_calls": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_RUNS", str(root))
        patch.setattr("kdlib.evaluate.cost._measured", lambda *given: {"macs": 1, "1_ms": [1.0], "32_ms": [1.0]})
        for fields in RUNS.values():
            where = photos if fields["dataset"] == "folder" else small_shapes
            experiment = Experiment.open(RunConfig(**fields, **small, data_root=str(where)))
            experiment.train()
            experiment.evaluate()
    return root


@pytest.fixture
def shown(finished, monkeypatch) -> Explorer:
    monkeypatch.setenv("KDLIB_RUNS", str(finished))
    return Explorer()


def choose(shown: Explorer, run: str) -> Experiment:
    shown.run.label = next(label for label, _ in shown.run.options if label.startswith(f"{run}, 1 epochs"))
    return shown.experiment


def upload(shown: Explorer, content: bytes | Image.Image, name: str = "mine.png") -> str:
    if isinstance(content, Image.Image):
        content.save(buffer := io.BytesIO(), "PNG")
        content = buffer.getvalue()
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    shown.upload.value = (file | {"last_modified": datetime.now(UTC)},)
    return shown.panels["upload"].value


def found(panel: str) -> dict[str, list[int]]:
    """{who: rows of the nearest images} that a panel shows."""
    columns = panel.split("Nearest images of the ")[1:]
    return {text[:7]: [int(n) - 1 for n in re.findall(r"<figcaption[^>]*>(\d+): ", text)] for text in columns}


def by_hand(experiment: Experiment, who: str, kind: str, row: int) -> list[int]:
    made = experiment.embed(who=who)
    images, query = made["image"].astype(float), made[kind][row]
    order = np.argsort(-(images @ query) / np.linalg.norm(images, axis=1), kind="stable").tolist()
    return [other for other in order if kind == "text" or other != row][: explorer.IMAGES]


@pytest.fixture
def no_teacher(monkeypatch) -> None:
    def load(*_):
        raise teachers.TeacherError("The checkpoint <x> is out of reach.")

    explorer.encoder.cache_clear()
    monkeypatch.setattr(explorer.features, "teacher_encoder", load)


def test_runs__are_all_offered_and_another_one_changes_every_panel(shown):
    assert {label.split(", 1 ")[0] for label, _ in shown.run.options} == set(RUNS)
    score = choose(shown, "CLIP, COCO: Attention").result["budgets"]["1"]["scores"]["student"]["mean_recall"][0]
    before = {name: panel.value for name, panel in shown.panels.items()}
    assert re.search(rf"<td>student</td>\s*<td>{score:.3f}</td>", before["run"])
    assert "where the teacher looks" in before["image"] and "where the student looks" in before["image"]
    assert "Write a caption" in before["caption"] and not shown.caption.disabled
    choose(shown, "DINO, photos: ResNet")
    assert shown.panels["run"].value != before["run"] and shown.image.max == 8
    assert "where the student looks" not in shown.panels["image"].value
    assert "reads no text" in shown.panels["caption"].value and shown.caption.disabled


@pytest.mark.parametrize("run", RUNS)
def test_image__shows_the_nearest_others_and_loads_no_teacher(shown, no_teacher, run):
    experiment = choose(shown, run)
    shown.image.value = 4
    panel = shown.panels["image"].value
    assert found(panel) == {who: by_hand(experiment, who, "image", 3) for who in ("teacher", "student")}
    assert ("Nearest captions" in panel) == ("COCO" in run)
    labels = experiment.data["test"].labels
    same = [labels[row] == labels[3] for rows in found(panel).values() for row in rows] if "photos" in run else []
    assert panel.count("outline:") == sum(same)


@pytest.mark.parametrize("run", ["CLIP, COCO: Attention", "CLIP, COCO: ResNet"])
def test_caption__of_the_data_finds_what_its_own_embedding_finds(shown, run):
    experiment = choose(shown, run)
    shown.caption.value = f" {experiment.captions()[12]} "
    made = found(shown.panels["caption"].value)
    assert made == {who: by_hand(experiment, who, "text", 12) for who in ("teacher", "student")}
    choose(shown, "CLIP, photos: Projection")  # labels, no captions: the student has no text side
    assert set(found(shown.panels["caption"].value)) == {"teacher"}


@pytest.mark.parametrize("run", RUNS)
def test_upload__of_a_scored_image_finds_that_image_first(shown, run):
    panel = upload(shown, choose(shown, run).photo("test", 4))
    assert [rows[0] for rows in found(panel).values()] == [4, 4]
    assert ("where the student looks" in panel) == ("Attention" in run)
    assert ("Nearest captions" in panel) == ("COCO" in run)


def test_upload__that_is_no_image_is_a_sentence_and_the_next_one_works(shown):
    assert "&lt;i&gt;.png: not a readable image" in upload(shown, b"nothing", "<i>.png")
    panel = upload(shown, Image.new("L", (20, 30), 90))
    assert len(found(panel)) == 2 and panel.count("<img ") == len(re.findall('<img [^>]*alt="[^"]', panel))


def test_a_missing_teacher__is_a_sentence_and_students_on_pixels_answer_alone(shown, no_teacher):
    choose(shown, "CLIP, COCO: Attention")
    shown.caption.value = "a star"
    assert "The checkpoint &lt;x&gt; is out of reach." in shown.panels["caption"].value
    panel = upload(shown, choose(shown, "DINO, photos: ResNet").photo("test", 0))
    assert "the student answers alone" in panel and list(found(panel)) == ["student"]


def test_a_run_that_cannot_be_opened__is_a_sentence_and_the_others_work(shown):
    explorer.opened.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdlib.trainer.checkpoint_of", lambda *given: None)
        assert choose(shown, "CLIP, photos: Projection") is None
    assert "there is no checkpoint of 1 epochs" in shown.panels["run"].value and shown.panels["image"].value == ""
    assert choose(shown, "DINO, photos: ResNet") and len(found(shown.panels["image"].value)) == 2


def test_without_a_finished_run__it_says_what_to_do(tmp_path):
    for study, said in (("", "kdlib run notebooks/studies/mini.yaml"), ("other", "other has no runs")):
        shown = Explorer(study, tmp_path)
        assert said in html.unescape(shown.panels["run"].value) and list(shown.view.children) == [shown.panels["run"]]
