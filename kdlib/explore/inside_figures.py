"""The figures of the notebook inside, in the style of :mod:`kdlib.report.style`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdlib.explore.transfer import Flow, Plane
from kdlib.report import style
from kdlib.report.style import GREY, MARKERS, colour, wrapped

PALE = "#c4cad0"  # of groups with too few images, and of other images


def heat(frame: pd.DataFrame, label: str, narrow: bool) -> Figure:
    """A table of shares as colours with their numbers."""
    size = (1.1 * len(frame.columns) + 3, 0.33 * len(frame) + (2.2 if narrow else 1.3))
    figure, (axes,) = style.panels(1, narrow, 1, size, 0)
    shown = frame.round(2) + 0.0  # no -0.00
    bar, small = {"label": label}, {"fontsize": 9}
    sns.heatmap(
        shown,
        annot=not narrow or len(frame.columns) < 6,
        fmt=".2f",
        cmap="cividis",
        vmin=0,
        vmax=1,
        ax=axes,
        cbar_kws=bar,
        annot_kws=small,
    )
    axes.set(xlabel="", ylabel="")
    axes.tick_params(axis="x", labelrotation=90 if narrow else 30)
    return figure


def kept(shares: Mapping[str, np.ndarray], count: int, narrow: bool) -> Figure:
    """How many of the teacher's ``count`` nearest images each student keeps: share of images by number, a bar each."""
    figure, (axes,) = style.panels(1, narrow, 1, (8, 0.42 * len(shares) + 1.5), 0.8 if narrow else 0)
    shades = sns.color_palette("cividis", count + 1)
    left = np.zeros(len(shares))
    for number in range(count + 1):
        part = np.array([np.mean(np.rint(share * count) == number) for share in shares.values()])
        axes.barh(list(shares), part, left=left, color=shades[number], label=str(number), edgecolor="white")
        left += part
    axes.invert_yaxis()
    axes.set(xlabel="share of the images", xlim=(0, 1))
    place = "outside lower center" if narrow else "outside right upper"
    figure.legend(title=f"of {count} kept", loc=place, ncols=3 if narrow else 1)
    return figure


def planes(planes: Mapping[str, Plane], groups: Mapping[str, np.ndarray], narrow: bool) -> Figure:
    """The teacher and each student in the teacher's plane, the same images; ``groups``: name -> rows in colour."""
    panels = {"teacher": next(iter(planes.values())).teacher} | {name: found.student for name, found in planes.items()}
    rows = next(iter(planes.values())).rows
    figure, grid = style.panels(len(panels), narrow, 4, (2.7, 2.7), 1.2 if narrow else 0.9)
    colours = sns.color_palette("viridis", len(groups))
    for axes, (name, points) in zip(grid, panels.items(), strict=True):
        axes.scatter(*points.T, s=6, color=PALE, lw=0, label="other images")
        for (group, member), shade, marker in zip(groups.items(), colours, [*MARKERS.values(), *"<>8"], strict=False):
            part = points[np.isin(rows, member)]
            axes.scatter(*part.T, s=18, color=shade, marker=marker, lw=0.3, edgecolor="white", label=group)
        share = "" if name == "teacher" else f"\nexplains {planes[name].explained:.2f} of the teacher"
        axes.set_title(f"{name}{share}")
        axes.sharex(grid[0])
        axes.sharey(grid[0])
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if narrow else 5, markerscale=1.6)
    return figure


def losses(
    frames: Mapping[str, pd.DataFrame], order: Sequence[str], method_of: Mapping[str, str], narrow: bool
) -> Figure:
    """Student minus teacher by group with intervals, a panel a student; groups of few images pale."""
    figure, grid = style.panels(len(frames), narrow, 3, (3.4, 0.22 * len(order) + 1.1), 0.2)
    places = {name: place for place, name in enumerate(order)}
    for axes, (name, frame) in zip(grid, frames.items(), strict=True):
        for row in frame[frame.group.isin(places)].itertuples():
            shade = PALE if row.few else colour(method_of[name])
            axes.plot([row.low, row.high], [places[row.group]] * 2, color=shade, lw=1.4)
            axes.plot(row.difference, places[row.group], style.marker(method_of[name]), color=shade, ms=5)
        axes.axvline(0, color=GREY, lw=1)
        axes.set_title(name)
        axes.set_yticks(range(len(order)), [wrapped(group, 26) for group in order])
        axes.set_ylim(len(order) - 0.5, -0.5)  # the first on top
    figure.supxlabel("student − teacher", fontsize=10)
    return figure


def flows(flows: Mapping[str, Flow], method_of: Mapping[str, str], narrow: bool) -> Figure:
    """Images mended to the right, broken to the left, a bar a student."""
    figure, (axes,) = style.panels(1, narrow, 1, (7.5, 0.42 * len(flows) + 1.3), 0)
    for name, found in flows.items():
        shade = colour(method_of[name])
        mended = axes.barh(name, len(found.mended), color=shade)
        broken = axes.barh(name, -len(found.broken), color=shade, alpha=0.4)
        axes.bar_label(mended, [f"+{len(found.mended)}"], padding=3)
        axes.bar_label(broken, [f"−{len(found.broken)}"], padding=3)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=1)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda value, place: f"{abs(value):g}")
    axes.set(xlabel="images broken (left, pale) and mended (right)")
    return figure
