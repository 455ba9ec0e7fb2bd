"""The explorer: what the student of a finished run finds and where it looks, beside its teacher. For JupyterLab."""

import html
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from PIL import Image

from kdlib import features, show, tables, teachers
from kdlib.config import RunConfig
from kdlib.data.base import decode
from kdlib.evaluate.metrics import cosines, unit_rows
from kdlib.evaluate.protocol import embed, embed_teacher
from kdlib.experiment import Experiment
from kdlib.loader import Split
from kdlib.study import said
from kdlib.utils import runs_root

IMAGES, TEXTS = 6, 4  # of a ranking
# What loading a teacher and storing its outputs depends on.
TEACHER = ("teacher", "checkpoint", "untrained_heads", "teacher_precision", "device", "feature_dtype", "token_grid")
Arrays = dict[str, np.ndarray]


def finished(study: str = "", path: str | Path | None = None) -> list[tuple[str, str]]:
    """(Label, folder) of each finished run; FileNotFoundError where there is none."""
    root, options = Path(path or runs_root()).expanduser().absolute(), []
    for name in [study] if study else sorted({file.parts[-5] for file in root.glob("*/*/*/seed*/result.json")}):
        table = tables.runs(name, root)
        for run in table[table.outcome == "ok"].drop_duplicates("path", keep="last").itertuples():
            label = f"{run.teacher}, {run.dataset}: {run.student}, {run.epochs} epochs, seed {run.seed}"
            options.append((f"{label} ({name}, {run.key})", run.path))
    if not options:
        raise FileNotFoundError(f"{root / study} has no finished run; try 'kdlib run notebooks/studies/mini.yaml'.")
    return options


@lru_cache(maxsize=3)
def opened(run: str, _written: int) -> tuple[Experiment, dict[str, Arrays]]:
    """A finished run, and of its scored split {who: image (N, D), text (M, D), image_attention (N, places)}."""
    experiment = Experiment.from_run(run)
    return experiment, {who: experiment.embed(who=who) for who in ("teacher", "student")}


@lru_cache(maxsize=1)
def encoder(*fields: tuple) -> tuple[Callable, Callable, dict, dict]:
    """The teacher as the features were built with it; the last one stays in memory."""
    return features.teacher_encoder(RunConfig(dataset="any", **dict(fields)), True)


def ask(experiment: Experiment, image: Image.Image | None = None, caption: str = "") -> dict[str, Arrays]:
    """{who: embeddings (1, D), 'image' or 'text', and 'image_attention'} of an image and a caption of the user's.

    Without the teacher's checkpoint a student that reads pixels sees the image alone; else TeacherError.
    """
    config, fit, student = experiment.config, experiment.splits["fit"], experiment.trained().student
    seen, made = image or Image.new("RGB", (64, 64)), {}
    arrays = {"image_pooled": np.zeros((1, 1), dtype=np.float32)}
    try:
        prepare, encode, *_ = encoder(*((name, getattr(config, name)) for name in TEACHER))
        arrays = encode([prepare(seen)], [(caption,)] if caption else None)
    except teachers.TeacherError:
        if image is None or student.reads != "pixels":
            raise
    own = replace(fit.features, arrays=arrays, ids=["own"], rows=np.zeros(1, dtype=int), skipped=[])
    pixels = replace(own, arrays={"pixels": features.fitted(seen, config.image_size)[None]})
    split = Split(own, pixels, vocabulary=fit.vocabulary)
    if "image_attention" in arrays:
        made["teacher"] = embed_teacher(split) | {"image_attention": torch.from_numpy(arrays["image_attention"])}
    made["student"] = embed(student, split, config.device)
    return {who: {name: values.float().numpy() for name, values in side.items()} for who, side in made.items()}


def nearest(query: np.ndarray, space: np.ndarray, count: int, leave_out: int = -1) -> list[tuple[int, float]]:
    """(Row, cosine) of the ``count`` rows of ``space`` (N, D) that are nearest to ``query`` (D,), the nearest first."""
    similar = cosines(unit_rows(torch.from_numpy(query[None])), unit_rows(torch.from_numpy(space)))[0]
    order = similar.argsort(descending=True, stable=True).tolist()
    return [(row, similar[row].item()) for row in order if row != leave_out][:count]


class Explorer:
    """Widgets over finished runs of a study, or of all below ``path``, as ``view``; ``panels``: what they change."""

    def __init__(self, study: str = "", path: str | Path | None = None):
        look = {"style": {"description_width": "initial"}, "layout": {"width": "min(100%, 46em)"}}
        self.experiment: Experiment | None = None  # of the chosen run
        self.run = widgets.Dropdown(description="Run", **look)
        self.image = widgets.IntSlider(1, 1, 1, description="Image", continuous_update=False, **look)
        self.caption = widgets.Text(description="Caption", continuous_update=False, **look)
        self.upload = widgets.FileUpload(accept="image/*", description="Image of yours")
        self.panels = {name: widgets.HTML() for name in ("run", "image", "caption", "upload")}
        self.view = widgets.VBox([one for name, panel in self.panels.items() for one in (getattr(self, name), panel)])
        try:
            self.run.options = finished(study, path)
        except FileNotFoundError as error:
            self.panels["run"].value, self.view.children = _sentence(error), [self.panels["run"]]
            return
        for name in self.panels:
            getattr(self, name).observe(lambda change, name=name: self._show(name), "value")
        self.run.index = 0

    def _show(self, name: str) -> None:
        """Fill a panel, after another run all, with what its method makes, or with the sentence of an error."""
        for panel in self.panels if name == "run" else (name,):
            if panel != "image":
                self.panels[panel].value = "<p>Computing; the first time, the teacher is loaded …</p>"
            try:
                self.panels[panel].value = getattr(self, f"_of_{panel}")() if self.experiment or panel == "run" else ""
            except Exception as error:  # a traceback would go where nobody looks
                self.panels[panel].value = _sentence(error)

    def _of_run(self) -> str:
        self.experiment, run = None, self.run.value
        experiment, self.embeddings = opened(run, Path(run, "result.json").stat().st_mtime_ns)
        self.on, self.split = experiment.config.score_on, experiment.splits[experiment.config.score_on]
        self.captions = experiment.captions(self.on) if self.split.has_text else []
        self.experiment, self.image.max = experiment, len(self.split)
        self.caption.disabled = not self.split.features.facts["text"]
        scores = pd.DataFrame(tables.scores_of(experiment.result, run, max(experiment.config.epochs)))
        scores = scores[scores.primary & scores.encoder.isin(["teacher", "student", "pca", "random_init"])]
        names = {"encoder": "", "value": show.NAMES[scores.metric.iloc[0]], "low": "95 % from", "high": "to"}
        table = scores.replace({"encoder": show.NAMES})[[*names]].rename(columns=names)
        return table.to_html(index=False, border=0, float_format="%.3f")

    def _of_image(self) -> str:
        row = self.image.value - 1
        return self._seen(self.experiment.photo(self.on, row), self._name(row), self.embeddings, row)

    def _of_caption(self) -> str:
        words = " ".join(self.caption.value.split())
        if self.caption.disabled:
            return "<p>This teacher reads no text, so that it cannot search with words.</p>"
        if not words:
            return "<p>Write a caption, then Enter: the images that teacher and student find for it.</p>"
        return self._found(ask(self.experiment, caption=words), "text")

    def _of_upload(self) -> str:
        if not self.upload.value:
            return "<p>What teacher and student find for an image of yours, which stays in this kernel's memory.</p>"
        image = decode(bytes(self.upload.value[0]["content"]), self.upload.value[0]["name"])
        image.thumbnail((1024, 1024))
        made = ask(self.experiment, image)
        alone = "" if "teacher" in made else "<p>The teacher's checkpoint is missing: the student answers alone.</p>"
        return alone + self._seen(image, "your image", made)

    def _name(self, row: int) -> str:
        """The class or the first caption of image ``row`` of the scored split."""
        data, row = self.experiment.data[self.on], self.split.features.rows[row]
        return data.class_names[data.labels[row]] if data.labels is not None else next(iter(data.captions[row]), "")

    def _seen(self, image: Image.Image, name: str, made: dict[str, Arrays], row: int = 0) -> str:
        """An image, row ``row`` of ``made``: where teacher and student look in it, and what they find for it."""
        facts, shown, words = self.split.features.facts, [image], [name]
        for who in [who for who in made if "image_attention" in made[who]]:
            looks = made[who]["image_attention"][row]
            shown.append(show.overlay(image, looks, facts["grid"], facts["centre_crop"]))
            words.append(f"where the {who} looks")
        return show.images(shown, words, height=150).data + self._found(made, "image", row)

    def _found(self, made: dict[str, Arrays], kind: str, row: int = 0) -> str:
        """What teacher and student find nearest, beside each other; framed: of the same class."""
        columns, own = [], row if made is self.embeddings else -1
        labels = self.split.labels if own >= 0 else None
        for who in [who for who in made if kind in made[who]]:
            query, spaces = made[who][kind][row], self.embeddings[who]
            near = nearest(query, spaces["image"], IMAGES, own)
            photos = [self.experiment.photo(self.on, other) for other, _ in near]
            words = [f"{other + 1}: {self._name(other)} ({cosine:.2f})" for other, cosine in near]
            right = [labels is not None and labels[other] == labels[own] for other, _ in near]
            column = show.images(photos, words, right, f"<b>Nearest images of the {who}</b>").data
            if kind == "image" and "text" in spaces:
                near = nearest(query, spaces["text"], TEXTS)
                texts = [f"{self.captions[text]} ({cosine:.2f})" for text, cosine in near]
                column += f"<b>Nearest captions of the {who}</b><br>{'<br>'.join(map(html.escape, texts))}"
            columns.append(f'<div style="flex:1 1 22em">{column}</div>')
        return f'<div style="display:flex;flex-wrap:wrap;gap:0 2em">{"".join(columns)}</div>'


def _sentence(error: Exception) -> str:
    return f'<p role="alert">{html.escape(said(error))}</p>'
