"""Figures of a run, and the style of all figures: colours that work for the colour-blind, a method always the same."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdlib.study import METHODS

PALETTE = dict(zip(METHODS, sns.color_palette("colorblind", len(METHODS)), strict=True))
MARKERS = dict(zip(METHODS, "osD^vP", strict=True))
GREY = "#6e7781"
NAMES = {"mean_recall": "mean recall of R@1, R@5, R@10 both ways", "knn@20_top1": "k-NN top-1 (k = 20)"}
sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 100, "savefig.dpi": 100})


def colour(method: str):
    return PALETTE.get(method, GREY)


def score_name(headline: str) -> str:
    """The headline score in words, for an axis."""
    return NAMES.get(headline, headline)


def curves(history: list[dict]) -> Figure:
    """Loss terms and images a second by epoch."""
    frame = pd.DataFrame(history)
    terms = [name for name in frame if name == "loss" or name in _terms(frame)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name in terms:
        left.plot(
            frame.epoch,
            frame[name],
            marker="o",
            label=name.replace("_", " "),
            lw=2.5 if name == "loss" else 1.2,
        )
    left.set(xlabel="epoch", ylabel="mean loss of the epoch", ylim=(0, None))
    left.legend(fontsize="small")
    right.plot(frame.epoch, frame.images_per_second, marker="o", color=GREY)
    right.set(xlabel="epoch", ylabel="training images a second", ylim=(0, 1.1 * frame.images_per_second.max()))
    for axes in (left, right):
        axes.set_xticks(frame.epoch)
    return figure


def _terms(frame: pd.DataFrame) -> list[str]:
    facts = {"epoch", "loss", "logit_scale", "learning_rate", "seconds", "data_share", "images_per_second"}
    return [name for name in frame if name not in facts]


def scores(result: dict) -> Figure:
    """The headline score of the student between its controls."""
    headline = result["headline"]
    names = {"teacher": "teacher", "pca": "PCA of the teacher", "student": "student, trained"}
    names |= {"untrained": "student, untrained", "constant": "chance"}
    values = [result["scores"][who][headline] for who in names]
    colours = [colour(result["config"]["method"]) if who == "student" else "#afb8c1" for who in names]
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    bars = axes.barh(list(names.values()), values, color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel=score_name(headline), xlim=(0, max(values) * 1.15 + 1e-9))
    return figure


def samples(dataset, count: int = 6) -> Figure:
    """The first images of a split with their class, or their first caption."""
    figure, row = plt.subplots(1, count, figsize=(1.9 * count, 2.6), layout="constrained")
    for index, axes in enumerate(row):
        axes.imshow(dataset.images[index])
        if dataset.captions is not None:
            text = dataset.captions[index][0]
        else:
            text = dataset.class_names[dataset.labels[index]]
        axes.set_title(_wrapped(text), fontsize=8)
        axes.axis("off")
    return figure


def _wrapped(text: str, width: int = 22, lines: int = 4) -> str:
    return textwrap.fill(textwrap.shorten(text, width * lines, placeholder=" ..."), width)


def attention(images: list, teacher: np.ndarray, student: np.ndarray | None, grid: tuple[int, int]) -> Figure:
    """Where the teacher looks, and the student if it has a map, over the same images.

    ``images`` as the teacher sees them; ``teacher`` and ``student``: their maps, (len(images), h * w).
    """
    lines = [("image", None), ("teacher", teacher)] + ([("student", student)] if student is not None else [])
    figure, grid_axes = plt.subplots(
        len(lines), len(images), figsize=(1.7 * len(images), 1.8 * len(lines)), layout="constrained"
    )
    for line, (name, maps) in enumerate(lines):
        for column, image in enumerate(images):
            axes = grid_axes[line, column]
            axes.imshow(image, extent=(0, image.width, image.height, 0))
            if maps is not None:
                heat = maps[column].reshape(grid)
                axes.imshow(heat, cmap="magma", alpha=0.65, extent=(0, image.width, image.height, 0))
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name)
    return figure
