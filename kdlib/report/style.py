"""The style of all figures, and what they are drawn from: panels in a grid, points with intervals, legends.

Colours work for the colour-blind; a method always looks the same. A figure is drawn twice, for a screen and for a
phone (``narrow``), where panels stand below each other.
"""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.study.file import METHODS

PALETTE = dict(zip(METHODS, sns.color_palette("colorblind", len(METHODS)), strict=True))
MARKERS = dict(zip(METHODS, "osD^vP", strict=True))
OTHERS = "*XhpH8<>d"  # markers of methods that are not the paper's
INK, GREY, PALE = "#1f2328", "#6e7781", "#dfe3e8"
NAMES = {"mean_recall": "mean recall of R@1, R@5, R@10 both ways", "knn@20_top1": "k-NN top-1 (k = 20)"}
SHORT = {"mean_recall": "mean recall", "knn@20_top1": "k-NN top-1"}
TEACHERS = {"clip": "CLIP", "blip": "BLIP", "dino": "DINO", "beit": "BEiT"}
EXPORTED = {"onnx": "float32", "onnx_int8": "int8"}
DATASETS = {"coco": "COCO", "tinyimagenet": "Tiny ImageNet"}
PHONE = 3.7  # inches that a phone shows without shrinking
# Class names come in any script: the first font that has a letter draws it.
FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Arabic",
         "Noto Sans Devanagari", "Noto Sans Hebrew", "Noto Sans Thai", "Arial Unicode MS", "Hiragino Sans",
         "Microsoft YaHei", "PingFang SC")  # fmt: skip
_here = {font.name for font in font_manager.fontManager.ttflist}
sns.set_theme(style="whitegrid", context="notebook")
plt.rcParams.update({
    "figure.dpi": 100, "savefig.dpi": 100, "font.family": [name for name in FONTS if name in _here] or ["sans-serif"],
    "axes.titlesize": 10.5, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9.5,
    "legend.frameon": False,
})  # fmt: skip


def colour(method: str):
    """The colour of a method in every figure, RGB in [0, 1]; ink for one that is not among the paper's six."""
    return PALETTE.get(method, INK)


def marker(method: str, methods: Sequence[str] = ()) -> str:
    """The marker of a method; of one that is not the paper's, by its place among those of ``methods``."""
    if method in MARKERS:
        return MARKERS[method]
    others = [name for name in methods if name not in MARKERS]
    return OTHERS[others.index(method) % len(OTHERS)] if method in others else OTHERS[0]


def score_name(headline: str) -> str:
    """The headline score in words, for an axis."""
    return NAMES.get(headline, headline)


def short_name(headline: str) -> str:
    """The headline score in two words."""
    return SHORT.get(headline, headline)


def teacher_name(teacher: str) -> str:
    """CLIP, BLIP, DINO, BEiT; one of the user's own by its own name."""
    return TEACHERS.get(teacher, teacher)


def dataset_name(dataset: str) -> str:
    """COCO, Tiny ImageNet; one of the user's own by its own name."""
    return DATASETS.get(dataset, dataset)


def wrapped(text: str, width: int = 22, lines: int = 4) -> str:
    """Broken into lines of ``width`` letters, cut after some."""
    return textwrap.fill(textwrap.shorten(text, width * lines, placeholder=" ..."), width)


def panels(count: int, narrow: bool, columns: int = 2, size: tuple[float, float] = (4.7, 3.0), legend: float = 0.6):
    """(figure, its ``count`` panels, row by row): ``columns`` beside each other, on a phone one.

    ``size``: inches of a panel; ``legend``: inches below them all.
    """
    columns = 1 if narrow else min(columns, count)
    rows = -(-count // columns)
    wide = PHONE if narrow else size[0] * columns
    figure, grid = plt.subplots(
        rows, columns, figsize=(wide, size[1] * rows + legend), layout="constrained", squeeze=False
    )
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def point(axes: Axes, x: float, y: float, low: float, high: float, method: str, **look) -> None:
    """A method's point with the interval of ``y``; a mean outside of its interval has none on that side."""
    bars = np.nan_to_num([[max(0.0, y - low)], [max(0.0, high - y)]])
    given = {"marker": marker(method), "color": colour(method), "elinewidth": 0.9, "ms": 7, "ls": "none", "zorder": 3}
    axes.errorbar(x, y, yerr=bars, **given | look)


def mark(name_of_marker: str, edge, inside, label: str = "") -> Line2D:
    """For a legend: a marker."""
    return Line2D([], [], color=edge, marker=name_of_marker, markerfacecolor=inside, ls="none", ms=7, label=label)


def marks(methods: Sequence[str]) -> dict[str, Line2D]:
    """For a legend: each method as it looks."""
    return {name: mark(marker(name, methods), colour(name), colour(name)) for name in methods}


def legend(figure: Figure, handles: Mapping[str, object], narrow: bool, columns: int = 6) -> None:
    """What each mark means, below the panels, in at most so many ``columns`` as there is width for."""
    look = {"loc": "outside lower center", "columnspacing": 1.2}
    for count in range(2 if narrow else columns, 0, -1):
        drawn = figure.legend(handles.values(), handles.keys(), ncols=count, **look)
        if count == 1 or drawn.get_window_extent().width <= figure.bbox.width:
            return
        drawn.remove()
