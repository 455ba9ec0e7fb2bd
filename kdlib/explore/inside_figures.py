"""Figures of what was transferred, in the style and the colours of :mod:`kdlib.report.style`."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from kdlib.explore.transfer import Flow, Plane
from kdlib.report.style import GREY, MARKERS, colour

FRAME = "#1f2328"  # no method has this colour, nor those of the groups
PALE = "#c4cad0"  # too few images to say anything


def wrapped(text: str, width: int, lines: int = 4) -> str:
    """Broken into lines of ``width`` letters, cut after some."""
    return textwrap.fill(textwrap.shorten(text, width * lines, placeholder=" ..."), width)


def attention(images: Sequence[Image.Image], maps: Mapping[str, np.ndarray], grid: tuple[int, int]) -> Figure:
    """A column an image: the image, then the map of each of ``maps`` (name -> (images, h * w)) over it."""
    lines = {"image": None, **maps}
    figure, rows = plt.subplots(
        len(lines), len(images), figsize=(1.5 * len(images) + 0.6, 1.5 * len(lines)), layout="constrained"
    )
    for row, (name, heat) in zip(rows, lines.items(), strict=True):
        for column, (axes, image) in enumerate(zip(row, images, strict=True)):
            extent = (0, image.width, image.height, 0)
            axes.imshow(image, extent=extent)
            if heat is not None:
                axes.imshow(heat[column].reshape(grid), cmap="magma", alpha=0.65, extent=extent)
            _bare(axes)
        row[0].set_ylabel(wrapped(name, 16), fontsize=9)
    return figure


def _bare(axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


def heat(frame: pd.DataFrame, label: str) -> Figure:
    """A table of shares as colours with their numbers."""
    figure, axes = plt.subplots(figsize=(1.1 * len(frame.columns) + 3, 0.33 * len(frame) + 1.3), layout="constrained")
    shown = frame.round(2) + 0.0  # no -0.00
    bar, small = {"label": label}, {"fontsize": 9}
    sns.heatmap(shown, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, ax=axes, cbar_kws=bar, annot_kws=small)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", labelrotation=30)
    return figure


def kept(shares: Mapping[str, np.ndarray], count: int) -> Figure:
    """How many of the teacher's ``count`` nearest images each student keeps: share of images by number, a bar each."""
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(shares) + 1.5), layout="constrained")
    shades = sns.color_palette("cividis", count + 1)
    left = np.zeros(len(shares))
    for number in range(count + 1):
        part = np.array([np.mean(np.rint(share * count) == number) for share in shares.values()])
        axes.barh(list(shares), part, left=left, color=shades[number], label=str(number), edgecolor="white")
        left += part
    axes.invert_yaxis()
    axes.set(xlabel="share of the images", xlim=(0, 1))
    axes.legend(title=f"of {count} kept", bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, title_fontsize=8)
    return figure


def examples(lines: Mapping[str, Sequence[tuple[Image.Image, bool]]], query: Image.Image, caption: str) -> Figure:
    """An image, and in a line a name its nearest images; those with True are framed."""
    count = max(map(len, lines.values()))
    figure, grid = plt.subplots(
        len(lines), count + 1, figsize=(1.15 * (count + 1) + 0.8, 1.2 * len(lines) + 0.5), layout="constrained"
    )
    for place, (row, (name, found)) in enumerate(zip(grid, lines.items(), strict=True)):
        row[0].set_ylabel(wrapped(name, 14), fontsize=8)
        _bare(row[0])
        if place == 0:
            row[0].imshow(query)
            for axes, words in zip(
                row, ["the image", *(f"nearest {number + 1}" for number in range(count))], strict=True
            ):
                axes.set_title(words, fontsize=8)
        else:
            sns.despine(ax=row[0], left=True, bottom=True)
        for axes, (image, common) in zip(row[1:], found, strict=False):
            axes.imshow(image)
            _bare(axes)
            for spine in axes.spines.values():
                spine.set(edgecolor=FRAME, linewidth=4, visible=common)
    figure.suptitle(wrapped(caption, 70), fontsize=9)
    return figure


def planes(planes: Mapping[str, Plane], groups: Mapping[str, np.ndarray]) -> Figure:
    """The teacher and each student in the teacher's plane, the same images; ``groups``: name -> rows in colour."""
    panels = {"teacher": next(iter(planes.values())).teacher} | {name: found.student for name, found in planes.items()}
    rows = next(iter(planes.values())).rows
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(2.7 * columns, 2.7 * lines + 0.9), layout="constrained", sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    colours = sns.color_palette("viridis", len(groups))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, points) in zip(grid.flat, panels.items(), strict=False):
        axes.scatter(*points.T, s=6, color=PALE, lw=0, label="other images")
        for (group, member), shade, marker in zip(groups.items(), colours, [*MARKERS.values(), *"<>8"], strict=False):
            part = points[np.isin(rows, member)]
            axes.scatter(*part.T, s=18, color=shade, marker=marker, lw=0.3, edgecolor="white", label=group)
        share = "" if name == "teacher" else f"\nexplains {planes[name].explained:.2f} of the teacher"
        axes.set_title(f"{name}{share}", fontsize=9)
        axes.tick_params(labelsize=7)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, markerscale=1.6)
    return figure


def losses(frames: Mapping[str, pd.DataFrame], order: Sequence[str], method_of: Mapping[str, str]) -> Figure:
    """Student minus teacher by group with intervals, a panel a student; groups of few images pale."""
    columns = min(3, len(frames))
    lines = -(-len(frames) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(3.1 * columns + 0.8, (0.22 * len(order) + 0.9) * lines), layout="constrained",
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axes in grid.flat[len(frames) :]:
        axes.set_visible(False)
    places = {name: place for place, name in enumerate(order)}
    for axes, (name, frame) in zip(grid.flat, frames.items(), strict=False):
        for row in frame[frame.group.isin(places)].itertuples():
            shade = PALE if row.few else colour(method_of[name])
            axes.plot([row.low, row.high], [places[row.group]] * 2, color=shade, lw=1.4)
            axes.plot(row.difference, places[row.group], MARKERS.get(method_of[name], "o"), color=shade, ms=5)
        axes.axvline(0, color=GREY, lw=1)
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(len(order)), [wrapped(group, 26) for group in order], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_ylim(len(order) - 0.5, -0.5)  # the first on top
    figure.supxlabel("student − teacher", fontsize=9)
    return figure


def flows(flows: Mapping[str, Flow], method_of: Mapping[str, str]) -> Figure:
    """Images mended to the right, broken to the left, a bar a student."""
    figure, axes = plt.subplots(figsize=(7.5, 0.42 * len(flows) + 1.3), layout="constrained")
    for name, found in flows.items():
        shade = colour(method_of[name])
        mended = axes.barh(name, len(found.mended), color=shade)
        broken = axes.barh(name, -len(found.broken), color=shade, alpha=0.4)
        axes.bar_label(mended, [f"+{len(found.mended)}"], padding=3, fontsize=8)
        axes.bar_label(broken, [f"−{len(found.broken)}"], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=1)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda value, place: f"{abs(value):g}")
    axes.set(xlabel="images broken (left, pale) and mended (right)")
    return figure


def pictures(images: Sequence[Image.Image], titles: Sequence[str]) -> Figure:
    """Images in a line, each with words above it."""
    broken = ["\n".join(wrapped(line, 34, 5) for line in title.splitlines()) for title in titles]
    height = 2.6 + 0.15 * max(text.count("\n") + 1 for text in broken)
    figure, row = plt.subplots(1, len(images), figsize=(2.5 * len(images), height), layout="constrained", squeeze=False)
    for axes, image, text in zip(row[0], images, broken, strict=True):
        axes.imshow(image)
        axes.axis("off")
        axes.set_title(text, fontsize=7.5)
    return figure
