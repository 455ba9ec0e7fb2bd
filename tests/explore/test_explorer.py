"""The explorer without a browser: its choosers, what they change, and what it answers."""

import html
import io
from datetime import UTC, datetime

import ipywidgets as widgets
import pytest
import torch
from PIL import Image

from kdlib import finished, teachers
from kdlib.explore import search
from kdlib.explore.explorer import SHOWN, Explorer


@pytest.fixture
def explorer(finished_study) -> Explorer:
    return Explorer(finished_study)


def choose(explorer: Explorer, **values) -> Explorer:
    for name, value in values.items():
        explorer.choosers[name].value = value
    return explorer


def upload(explorer: Explorer, content: bytes, name: str = "mine.png") -> str:
    file = {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content)}
    explorer.upload.value = (file | {"last_modified": datetime.now(UTC)},)
    return explorer.panels["seen"].value


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def options(explorer: Explorer) -> dict:
    return {name: list(chooser.options) for name, chooser in explorer.choosers.items()}


def test_choosers__offer_only_what_is_finished_and_follow_each_other(explorer):
    choose(explorer, teacher="clip on coco")
    assert options(explorer)["teacher"] == ["clip on coco", "dino on tinyimagenet"]
    assert options(explorer)["method"] == ["projection", "attention", "resnet", "resnet, no teacher"]
    assert options(explorer)["epochs"] == [1, 2] and explorer.choosers["epochs"].value == 2
    choose(explorer, epochs=1, method="resnet, no teacher")
    assert options(explorer)["epochs"] == [2]
    choose(explorer, teacher="dino on tinyimagenet")
    assert options(explorer)["method"] == ["projection", "attention", "resnet"]
    assert explorer.run.name == explorer.choosers["method"].value == "projection"


def test_explorer__opens_on_the_best_student_of_a_vision_language_teacher(explorer):
    runs = [run for run in finished.find("small", "clip") if run.config.epochs == 2 and not run.config.variant]
    best = max(runs, key=lambda run: run.score())
    assert (explorer.run.teacher_name, explorer.run.name, explorer.run.config.epochs) == ("clip on coco", best.name, 2)


def test_answer__says_which_words_the_teacher_does_not_know(explorer):
    choose(explorer, teacher="clip on coco")
    explorer.caption.value = "a large zeppelin"
    assert "vocabulary has no &#x27;zeppelin&#x27;" in explorer.panels["answer"].value
    explorer.caption.value = "a large white star"
    assert "vocabulary" not in explorer.panels["answer"].value


def test_choosers__keep_a_value_that_is_still_there(explorer):
    choose(explorer, teacher="clip on coco", method="attention")
    choose(explorer, teacher="dino on tinyimagenet")
    assert explorer.choosers["method"].value == "attention" and explorer.run.teacher_name == "dino on tinyimagenet"


@pytest.mark.parametrize("teacher", ["clip on coco", "dino on tinyimagenet"])
def test_a_change__changes_every_panel_that_depends_on_it(explorer, teacher):
    choose(explorer, teacher=teacher, method="projection")
    before = {name: panel.value for name, panel in explorer.panels.items()}
    assert f"{explorer.run.score():.3f}" in before["result"]
    assert "The student projection has no attention map" in before["looks"]
    choose(explorer, method="attention")
    after = {name: panel.value for name, panel in explorer.panels.items()}
    assert all(before[name] != after[name] for name in ("result", "looks"))
    assert "where the student looks" in after["looks"]
    explorer.after.click()
    assert explorer.index.value == 2
    assert explorer.panels["neighbours"].value != after["neighbours"]
    assert explorer.panels["result"].value == after["result"]
    explorer.before.click()
    explorer.before.click()
    assert explorer.index.value == len(explorer.run)
    last = explorer.panels["neighbours"].value
    choose(explorer, method="resnet")
    assert explorer.panels["neighbours"].value != last


def shown_images(explorer: Explorer, panel: str) -> list[list[int]]:
    """Numbers of the images of each ranking in a panel, from their alternative texts."""
    import re

    parts = explorer.panels[panel].value.split("<h3>")[1:]
    numbers = [[int(found) - 1 for found in re.findall(r": image (\d+),", part)] for part in parts]
    return [found for found in numbers if found]


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
def test_caption__finds_what_the_stored_embeddings_find_by_hand(explorer, method):
    choose(explorer, teacher="clip on coco", method=method)
    run = explorer.run
    explorer.caption.value = run.texts[12]
    for who, found in zip(("teacher", "student"), shown_images(explorer, "answer"), strict=True):
        space = search.space(run, who)
        by_hand = (space["image"] @ space["text"][12]).argsort(descending=True)[:SHOWN]
        assert found == by_hand.tolist()


def test_caption__is_asked_again_of_another_student_and_has_no_box_where_the_teacher_cannot_read(explorer):
    choose(explorer, teacher="clip on coco", method="projection")
    assert "Type a caption" in explorer.panels["answer"].value
    explorer.caption.value = "a large white star <b>"
    before = explorer.panels["answer"].value
    assert "&lt;b&gt;" in before and "<b>" not in before
    choose(explorer, method="resnet")
    assert explorer.panels["answer"].value != before and len(shown_images(explorer, "answer")) == 2
    choose(explorer, teacher="dino on tinyimagenet")
    assert explorer.ask_row.layout.display == "none"
    assert "vision-only teacher" in explorer.panels["answer"].value
    choose(explorer, teacher="clip on coco")
    assert explorer.ask_row.layout.display == "flex"


def test_caption__says_that_the_teacher_is_loading_before_it_is(explorer, monkeypatch):
    choose(explorer, teacher="clip on coco")
    seen = []
    real = search.teacher_of
    monkeypatch.setattr(
        search, "teacher_of", lambda config: seen.append(explorer.panels["answer"].value) or real(config)
    )
    explorer.caption.value = "a star"
    assert "Loading the teacher" in seen[0] and "Loading" not in explorer.panels["answer"].value


@pytest.mark.parametrize("method", ["projection", "attention", "resnet"])
@pytest.mark.parametrize("teacher", ["clip on coco", "dino on tinyimagenet"])
def test_upload__of_a_scored_image_finds_that_image_first(explorer, teacher, method):
    choose(explorer, teacher=teacher, method=method)
    upload(explorer, png(explorer.run.image(4)))
    similar = explorer.run.student_space["image"] @ explorer.run.student_space["image"][4]
    twins = torch.nonzero(similar > 1 - 1e-6).flatten().tolist()  # a collapsed student has many
    for who, found in zip(("teacher", "student"), shown_images(explorer, "seen"), strict=True):
        assert found[0] == 4 or (who == "student" and len(twins) > 1)
    assert ("where the student looks" in explorer.panels["seen"].value) == (method == "attention")
    assert ("nearest captions" in explorer.panels["seen"].value) == (teacher == "clip on coco")


def test_upload__that_is_no_image_is_a_message_and_the_next_one_works(explorer):
    assert "is not an image that can be read" in upload(explorer, b"nothing", "<i>.png")
    assert "<i>" not in explorer.panels["seen"].value
    choose(explorer, method="resnet")
    assert "forgotten with it" in explorer.panels["seen"].value
    assert len(shown_images(explorer, "seen")) == 0
    upload(explorer, png(Image.new("L", (20, 30), 90)))
    assert len(shown_images(explorer, "seen")) == 2
    explorer.clear.click()
    assert len(shown_images(explorer, "seen")) == 0


def test_a_teacher_that_cannot_be_had__is_a_message(explorer, monkeypatch):
    def gone(config):
        raise teachers.TeacherError("The checkpoint is out of reach.")

    monkeypatch.setattr(search, "teacher_of", gone)
    choose(explorer, teacher="clip on coco", method="projection")
    explorer.caption.value = "a star"
    assert "out of reach" in explorer.panels["answer"].value
    choose(explorer, method="resnet")
    upload(explorer, png(explorer.run.image(0)))
    assert "only the student answers" in explorer.panels["seen"].value
    assert len(shown_images(explorer, "seen")) == 1


def test_without_a_finished_run__it_says_what_to_do():
    explorer = Explorer()
    assert explorer.run is None
    assert "kdlib run notebooks/studies/mini.yaml" in explorer.panels["status"].value
    assert explorer.panels["status"] in explorer.view.children


def test_an_unknown_study__is_named_and_another_one_shown(finished_study):
    explorer = Explorer("unknown")
    assert "unknown" in explorer.panels["status"].value and explorer.run.config.study == finished_study


@pytest.mark.parametrize("teacher", ["clip on coco", "dino on tinyimagenet"])
def test_lost_and_gained__counts_what_the_record_has_and_shows_the_first(explorer, teacher):
    choose(explorer, teacher=teacher, method="resnet")
    run = explorer.run
    score = "i2t_r@1" if run.has_text else run.headline
    student, teachers_own = (run.queries(who, score) > 0.5 for who in ("student", "teacher"))
    text = html.unescape(explorer.panels["changed"].value)
    lost, gained = (teachers_own & ~student).nonzero()[0], (student & ~teachers_own).nonzero()[0]
    assert f"the teacher alone is right about {len(lost)}<" in text and len(lost) > 0
    assert f"the student alone is right about {len(gained)}<" in text
    assert f"{lost[0] + 1}: {run.describe(lost[0])}" in text
    assert text.count("<img") == min(len(lost), SHOWN) + min(len(gained), SHOWN)


def test_a_result_of_other_code__is_marked(explorer, monkeypatch):
    assert finished.OUTDATED not in html.unescape(explorer.panels["result"].value)
    monkeypatch.setattr(finished.Finished, "outdated", True)
    choose(explorer, method="attention")
    assert finished.OUTDATED in html.unescape(explorer.panels["result"].value)


def test_every_widget_has_a_label_and_every_picture_a_description(explorer):
    import re

    choose(explorer, teacher="clip on coco", method="attention")
    inputs = [widget for widget in _all(explorer.view) if isinstance(widget, widgets.DOMWidget)]
    inputs = [one for one in inputs if not isinstance(one, (widgets.HTML, widgets.Box))]
    assert len(inputs) == 12 and all(one.description for one in inputs)
    pictures = re.findall(r"<img [^>]*>", "".join(panel.value for panel in explorer.panels.values()))
    assert len(pictures) > 10 and all(re.search(r'alt="[^"]+"', picture) for picture in pictures)


def _all(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from _all(child)
