"""Figures of one run, in the style and the colours of :mod:`kdlib.report.style`."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from kdlib.report.anatomy import Part
from kdlib.report.style import GREY, colour, score_name
from kdlib.trainer import FACTS

PALE = "#dfe3e8"
FRAME = INK = "#1f2328"  # of what is right: no method has this colour
LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of loss terms, which have no colours: methods have
CONTROL_LINES = ("--", "-.", ":")
CONTROLS = {"untrained": "student, untrained", "pca": "PCA of the teacher", "teacher": "teacher", "constant": "chance"}


def wrapped(text: str, width: int = 22, lines: int = 4) -> str:
    """Broken into lines of ``width`` letters, cut after some."""
    return textwrap.fill(textwrap.shorten(text, width * lines, placeholder=" ..."), width)


def _bare(axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def _picture(axes, image: Image.Image, framed: bool = False) -> None:
    axes.imshow(image)
    _bare(axes)
    for spine in axes.spines.values():
        spine.set(edgecolor=FRAME if framed else PALE, linewidth=4 if framed else 0.8)


# ---------------------------------------------------------------- training


def curves(history: list[dict]) -> Figure:
    """Loss terms and images a second by epoch."""
    frame = pd.DataFrame(history)
    terms = [name for name in frame if name not in FACTS]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, (line, marker) in zip(terms, itertools.cycle(LINES), strict=False):
        style = {"color": INK, "lw": 2.2} if name == "loss" else {"color": GREY, "lw": 1.3, "mfc": "white"}
        left.plot(frame.epoch, frame[name], ls=line, marker=marker, label=name.replace("_", " "), **style)
    left.set(xlabel="epoch", ylabel="mean loss of the epoch", ylim=(0, None))
    left.legend(fontsize="small")
    right.plot(frame.epoch, frame.images_per_second, marker="o", color=GREY)
    right.set(xlabel="epoch", ylabel="training images a second", ylim=(0, 1.1 * frame.images_per_second.max()))
    for axes in (left, right):
        axes.set_xticks(frame.epoch)
    return figure


@dataclass(frozen=True)
class Point:
    """A score after so many epochs, with its interval."""

    epochs: int
    score: float
    low: float
    high: float


def score_by_epochs(points: Sequence[Point], controls: Mapping[str, float], headline: str, method: str) -> Figure:
    """The headline score at each number of epochs that was evaluated, from the untrained student on.

    ``controls``: 'untrained', 'teacher' and others as lines; the names of lines that nearly touch stand together.
    """
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    epochs = [0, *(point.epochs for point in points)]
    axes.plot(epochs, [controls["untrained"], *(point.score for point in points)], color=colour(method), lw=1.5)
    axes.errorbar(
        epochs[1:],
        [point.score for point in points],
        yerr=np.array([(point.score - point.low, point.high - point.score) for point in points]).clip(0).T,
        fmt="o",
        color=colour(method),
        capsize=4,
    )
    last = epochs[-1]
    top = 1.15 * max(*controls.values(), *(point.high for point in points))
    named: list[tuple[float, str]] = []
    for (name, value), style in zip(sorted(controls.items(), key=lambda pair: -pair[1]), CONTROL_LINES, strict=False):
        axes.axhline(value, color=GREY, ls=style, lw=1.2)
        if named and named[-1][0] - value < 0.07 * top:
            named[-1] = named[-1][0], f"{named[-1][1]}, {name}"
        else:
            named.append((value, name))
    for value, name in named:
        axes.annotate(name, (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set(xlabel="epochs", xticks=epochs, xlim=(-0.03 * last, 1.05 * last))
    axes.set(ylabel=wrapped(score_name(headline), 24), ylim=(0, top))
    return figure


# ---------------------------------------------------------------- the result


def standing(scores: Mapping[str, float], low: float, high: float, headline: str, method: str) -> Figure:
    """The student's score with its interval among its controls; ``scores``: student, untrained, pca, teacher, ..."""
    names = {name: words for name, words in CONTROLS.items() if name in scores}
    order = sorted(names, key=lambda name: scores[name], reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(order) + 1.3), layout="constrained")
    axes.axvspan(low, high, color=colour(method), alpha=0.15, lw=0)
    axes.errorbar(
        [scores["student"]],
        [0],
        xerr=[[max(0, scores["student"] - low)], [max(0, high - scores["student"])]],
        fmt="o",
        ms=9,
        capsize=5,
        color=colour(method),
    )
    for place, name in enumerate(order, start=1):
        axes.plot(scores[name], place, marker="D", color=GREY, ls="")
    lines = ["student", *order]
    for place, name in enumerate(lines):
        axes.annotate(
            f"{scores[name]:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=10
        )
    axes.set(yticks=range(len(lines)), yticklabels=["student, trained", *(names[name] for name in order)])
    axes.set(xlabel=score_name(headline), xlim=(-0.02, 1.06 * max([high, *(scores[name] for name in lines)]) + 1e-9))
    axes.set_ylim(len(lines) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)
    return figure


def samples(images: Sequence[Image.Image], titles: Sequence[str]) -> Figure:
    """Images with their class, or their first caption."""
    figure, row = plt.subplots(1, len(images), figsize=(1.9 * len(images), 2.6), layout="constrained")
    for axes, image, title in zip(np.atleast_1d(row), images, titles, strict=True):
        _picture(axes, image)
        axes.set_title(wrapped(title), fontsize=8)
    return figure


def attention(images: list, teacher: np.ndarray, student: np.ndarray | None, grid: tuple[int, int]) -> Figure:
    """Where the teacher looks, and the student if it has a map, over the same images.

    ``images`` as the teacher sees them; ``teacher`` and ``student``: their maps, (len(images), h * w).
    """
    lines = [("image", None), ("teacher", teacher)] + ([("student", student)] if student is not None else [])
    figure, grid_axes = plt.subplots(
        len(lines), len(images), figsize=(1.7 * len(images), 1.8 * len(lines)), layout="constrained", squeeze=False
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


# ---------------------------------------------------------------- the student


@dataclass(frozen=True)
class Lane:
    """One side of the student, from what it reads to its embedding.

    ``backbone``: the teacher's part that inference needs below it, '' where it needs none.
    """

    side: str
    backbone: str
    reads: str
    boxes: Sequence[Part]
    output: str


def diagram(lanes: Sequence[Lane], method: str) -> Figure:
    """The student as boxes in the order in which they run; in grey what of the teacher inference needs."""
    width, gap, height = 2.5, 0.45, 1.5
    grey = any(lane.backbone for lane in lanes)
    longest = max(len(lane.boxes) for lane in lanes) + 2 + grey
    figure, axes = plt.subplots(figsize=(2.15 * longest, 1.75 * len(lanes) + 0.2), layout="constrained")
    size = 8.5
    for line, lane in enumerate(lanes):
        middle = -line * (height + 0.6)
        parts = [(lane.backbone, "backbone")] if lane.backbone else []
        parts.append((f"{lane.side} side reads\n{lane.reads}", "data"))
        parts += [(_words(box), "box") for box in lane.boxes]
        parts.append((lane.output, "data"))
        for place, (words, kind) in enumerate(parts):
            left = (place + (grey and not lane.backbone)) * (width + gap)  # what is read stands in one column
            face = {"backbone": "#d0d5db", "data": "white", "box": to_rgba(colour(method), 0.22)}[kind]
            edge = {"backbone": GREY, "data": PALE, "box": colour(method)}[kind]
            corner = (left, middle - height / 2)
            style = "round,pad=0,rounding_size=0.12" if kind != "data" else "square,pad=0"
            axes.add_patch(FancyBboxPatch(corner, width, height, style, facecolor=face, edgecolor=edge, lw=1.4))
            axes.text(left + width / 2, middle, words, ha="center", va="center", fontsize=size, linespacing=1.35)
            if place + 1 < len(parts):
                ends = {"xy": (left + width + gap, middle), "xytext": (left + width, middle)}
                axes.annotate("", **ends, arrowprops={"arrowstyle": "-|>", "color": "#1f2328", "lw": 1.2})
    axes.set(xlim=(-0.1, longest * (width + gap)), ylim=(-(len(lanes) - 1) * (height + 0.6) - 0.95, 0.95))
    axes.axis("off")
    return figure


def _words(box: Part) -> str:
    lines = [f"$\\bf{{{box.name.replace('_', chr(92) + '_')}}}$", wrapped(box.kind, 22, 3)]
    lines.append(f"{box.parameters:,} parameters" if box.parameters else "no parameters")
    return "\n".join([*lines, f"gives {box.output}"] if box.output else lines)


# ---------------------------------------------------------------- right and wrong


@dataclass(frozen=True)
class Row:
    """A line of pictures: what it is about, perhaps a picture of that, and pictures with titles and frames."""

    title: str
    pictures: Sequence[Image.Image]
    labels: Sequence[str]
    framed: Sequence[bool]


def rows_of_pictures(rows: Sequence[Row], width: int = 34) -> Figure:
    """A line each: its title at the left, then its pictures; what is right is framed."""
    count = max(len(row.pictures) for row in rows)
    figure, grid = plt.subplots(
        len(rows),
        count + 1,
        figsize=(1.25 * count + 2.9, 1.5 * len(rows)),
        layout="constrained",
        squeeze=False,
        width_ratios=[2.2, *([1] * count)],
    )
    for line, row in zip(grid, rows, strict=True):
        line[0].axis("off")
        words = "\n".join(wrapped(part, width, 4) for part in row.title.split("\n"))
        line[0].text(0, 0.5, words, va="center", fontsize=9, transform=line[0].transAxes, linespacing=1.3)
        for axes in line[1 + len(row.pictures) :]:
            axes.axis("off")
        for axes, image, label, framed in zip(line[1:], row.pictures, row.labels, row.framed, strict=False):
            _picture(axes, image, framed)
            axes.set_title(wrapped(label, 16, 2), fontsize=8, pad=3)
    return figure


def captions_of(
    images: Sequence[Image.Image], titles: Sequence[str], found: Sequence[Sequence[tuple[str, bool]]]
) -> Figure:
    """Images, each with its title and the captions ``found`` for it; the right ones are marked."""
    figure, grid = plt.subplots(
        len(images), 2, figsize=(9, 1.95 * len(images)), layout="constrained", squeeze=False, width_ratios=[1, 3.4]
    )
    for (left, right), image, title, texts in zip(grid, images, titles, found, strict=True):
        _picture(left, image)
        right.axis("off")
        right.text(0, 1, title, va="top", fontsize=9, weight="bold", transform=right.transAxes)
        for place, (text, good) in enumerate(texts):
            words = f"{place + 1}  {'✓ ' if good else '    '}{textwrap.shorten(text, 74, placeholder=' ...')}"
            shade = {"color": INK, "weight": "bold" if good else "normal"}
            right.text(0, 0.8 - 0.17 * place, words, va="top", fontsize=9, transform=right.transAxes, **shade)
    return figure


def hardest(frame: pd.DataFrame, method: str) -> Figure:
    """Accuracy of student and teacher in each class of ``frame`` (class, images, student, teacher), a bar each."""
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(frame) + 1.2), layout="constrained")
    places = np.arange(len(frame))
    for shift, who, shade in ((-0.2, "student", colour(method)), (0.2, "teacher", GREY)):
        bars = axes.barh(places + shift, frame[who], height=0.38, color=shade, label=who)
        counts = [f"{value * images:.3g} of {images}" for value, images in zip(frame[who], frame.images, strict=True)]
        axes.bar_label(bars, labels=counts, padding=3, fontsize=8)
    axes.set(yticks=places, yticklabels=[wrapped(name, 26, 2) for name in frame["class"]])
    axes.invert_yaxis()
    axes.set(
        xlabel="share right, k-NN top-1 (k = 20)",
        xlim=(0, max(1.15 * frame[["student", "teacher"]].to_numpy().max(), 0.1)),
    )
    axes.grid(axis="y", visible=False)
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=9)
    return figure
