"""Figures of one run, in the style and the colours of :mod:`kdlib.report.style`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from kdlib.report import style
from kdlib.report.anatomy import Part
from kdlib.report.style import GREY, INK, PALE, colour, score_name, wrapped
from kdlib.trainer import FACTS

LINES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"))  # of loss terms, which have no colours: methods have
CONTROL_LINES = ("--", "-.", ":")
CONTROLS = {"untrained": "student, untrained", "pca": "PCA of the teacher", "teacher": "teacher", "constant": "chance"}


# ---------------------------------------------------------------- training


def curves(history: list[dict], narrow: bool) -> Figure:
    """Loss terms and images a second by epoch."""
    frame = pd.DataFrame(history)
    terms = [name for name in frame if name not in FACTS]
    figure, (left, right) = style.panels(2, narrow, 2, (4.5, 3.2), 0)
    for name, (line, marker) in zip(terms, itertools.cycle(LINES), strict=False):
        look = {"color": INK, "lw": 2.2} if name == "loss" else {"color": GREY, "lw": 1.3, "mfc": "white"}
        left.plot(frame.epoch, frame[name], ls=line, marker=marker, label=name.replace("_", " "), **look)
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


def score_by_epochs(
    points: Sequence[Point], controls: Mapping[str, float], headline: str, method: str, narrow: bool
) -> Figure:
    """The headline score of the untrained student, and at each number of epochs that was scored.

    ``controls``: 'untrained', 'teacher' and others, drawn as lines; lines that nearly touch share one label.
    """
    figure, (axes,) = style.panels(1, narrow, 1, (7, 3), 0)
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
    for (name, value), dashes in zip(sorted(controls.items(), key=lambda pair: -pair[1]), CONTROL_LINES, strict=False):
        axes.axhline(value, color=GREY, ls=dashes, lw=1.2)
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


def standing(scores: Mapping[str, float], low: float, high: float, headline: str, method: str, narrow: bool) -> Figure:
    """The student's score with its interval among its controls; ``scores``: student, untrained, pca, teacher, ..."""
    names = {name: words for name, words in CONTROLS.items() if name in scores}
    order = sorted(names, key=lambda name: scores[name], reverse=True)
    figure, (axes,) = style.panels(1, narrow, 1, (8, 0.36 * len(order) + 1.3), 0)
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


# ---------------------------------------------------------------- the student


@dataclass(frozen=True)
class Lane:
    """One side of the student, from its input to its embedding.

    ``backbone``: the part of the teacher that inference needs below it; '' if none.
    """

    side: str
    backbone: str
    reads: str
    boxes: Sequence[Part]
    output: str


def diagram(lanes: Sequence[Lane], method: str, narrow: bool) -> Figure:
    """The student as boxes in the order in which they run; on a phone, one below the other.

    The parts of the teacher that inference needs are grey.
    """
    width, gap, height = (2.5, 0.45, 1.5) if not narrow else (3.3, 0.4, 1.7)
    chains = [_chain(lane) for lane in lanes]
    longest = max(map(len, chains))
    if narrow:
        across, down = len(lanes) * (width + gap), longest * (height + gap)
        figure, axes = plt.subplots(figsize=(style.PHONE, 0.56 * down), layout="constrained")
    else:
        across, down = longest * (width + gap), len(lanes) * (height + 0.6)
        figure, axes = plt.subplots(figsize=(2.15 * longest, 1.75 * len(lanes) + 0.2), layout="constrained")
    for line, chain in enumerate(chains):
        skipped = longest - len(chain) if not narrow and longest - len(chain) == 1 and chain[0][1] == "data" else 0
        for place, (words, kind) in enumerate(chain):
            step = place + skipped  # what is read stands in one column
            left, top = (line * (width + gap), -step * (height + gap)) if narrow else (
                step * (width + gap), -line * (height + 0.6))  # fmt: skip
            face = {"backbone": "#d0d5db", "data": "white", "box": to_rgba(colour(method), 0.22)}[kind]
            edge = {"backbone": GREY, "data": PALE, "box": colour(method)}[kind]
            shape = "round,pad=0,rounding_size=0.12" if kind != "data" else "square,pad=0"
            box = FancyBboxPatch((left, top - height), width, height, shape, facecolor=face, edgecolor=edge, lw=1.4)
            axes.add_patch(box)
            middle = (left + width / 2, top - height / 2)
            axes.text(*middle, words, ha="center", va="center", fontsize=8.5, linespacing=1.3)
            if place + 1 < len(chain):
                start = (middle[0], top - height) if narrow else (left + width, middle[1])
                end = (middle[0], top - height - gap) if narrow else (left + width + gap, middle[1])
                axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2})
    axes.set(xlim=(-0.1, across), ylim=(-down, 0.1))
    axes.axis("off")
    return figure


def _chain(lane: Lane) -> list[tuple[str, str]]:
    parts = [(lane.backbone, "backbone")] if lane.backbone else []
    parts.append((f"{lane.side} side reads\n{lane.reads}", "data"))
    return [*parts, *((_words(box), "box") for box in lane.boxes), (lane.output, "data")]


def _words(box: Part) -> str:
    lines = [f"$\\bf{{{box.name.replace('_', chr(92) + '_')}}}$", wrapped(box.kind, 22, 3)]
    lines.append(f"{box.parameters:,} parameters" if box.parameters else "no parameters")
    return "\n".join([*lines, f"gives {box.output}"] if box.output else lines)
