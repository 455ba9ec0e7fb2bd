"""Palette, marks and names of figures; images as HTML. It reads no result, and importing it changes nothing."""

import base64
import html
import io
import math
import os

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from PIL import Image, ImageOps

NAMES = {"knn@20_top1": "k-NN top-1", "mean_recall": "mean recall", "pca": "PCA of its features",
         "random_init": "random init", "pretrained_init": "pretrained init", "supervised": "supervised baseline",
         "student": "student", "teacher": "teacher", "words_shuffled": "words shuffled"}  # fmt: skip
# Okabe and Ito's colours; marks also differ in shape and fill, so that none is told by its colour alone.
MARKS = {"random_init": {"marker": "x", "color": "#767676", "markersize": 6, "linewidth": 1, "alpha": 0.9},
         "supervised": {"marker": "s", "color": "#C14B00", "markerfacecolor": "none", "markersize": 7, "linewidth": 1},
         "student": {"marker": "o", "color": "#0072B2", "markersize": 7, "linewidth": 2.2}}  # fmt: skip
LINES = {"teacher": {"color": "#bdbdbd", "linewidth": 4},
         "pca": {"color": "#222222", "linewidth": 1.3, "linestyle": (0, (3, 2))}}  # fmt: skip
COLOURS, SHAPES = ("#B87A00", "#009E73", "#0072B2", "#B5578D", "#56B4E9", "#767676", "#222222"), "sDo^vPX"


def look(place: int) -> dict[str, str]:
    """Colour and marker of a figure's line by its place, as of the second teacher."""
    return {"color": COLOURS[place % 7], "marker": SHAPES[place % 7]}


def use() -> None:
    """Set matplotlib to this project's look: SVG with real text on white (a dark page inverts it), few lines."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    # GitHub's viewer removes SVG.
    set_matplotlib_formats("retina" if os.environ.get("KDLIB_FIGURES") == "png" else "svg")
    plt.rcParams |= {
        "svg.fonttype": "none", "svg.hashsalt": "kdlib", "font.family": "sans-serif", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e3e3e3",
        "grid.linewidth": 0.8, "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    }  # fmt: skip


def figure(fig, alt: str) -> None:
    """Show a figure with its alternative text, and close it."""
    display(fig, metadata={"alt": alt})
    plt.close(fig)


def images(pictures, captions=None, right=None, title: str = "", height: int = 104) -> HTML:
    """Pictures of one height side by side, words below; those of ``right`` are framed. ``title`` is HTML."""
    cards, style = [], "font-size:12px;line-height:1.35;padding-top:6px"
    for place, picture in enumerate(pictures):
        width, buffer = round(height * min(picture.width / picture.height, 2)), io.BytesIO()
        picture.convert("RGB").resize((width * 3 // 2, height * 3 // 2)).save(buffer, "JPEG", quality=85)
        words, framed = html.escape(captions[place]) if captions else "", bool(right and right[place])
        edge, alt = "outline:4px solid #0072B2;outline-offset:1px;" * framed, ", the right one" * framed
        cards.append(f'<figure style="margin:0;width:{width}px"><img alt="{words or html.escape(title)}{alt}" '
                     f'width="{width}" height="{height}" style="display:block;{edge}" src="data:image/jpeg;base64,'
                     f'{base64.b64encode(buffer.getvalue()).decode()}"><figcaption style="{style}">{words}'
                     "</figcaption></figure>")  # fmt: skip
    head = f'<p style="margin:.7em 0 .5em">{title}</p>' if title else ""
    return HTML(f'{head}<div style="display:flex;flex-wrap:wrap;gap:12px;padding:3px">{"".join(cards)}</div>')


def overlay(image: Image.Image, attention, grid: tuple[int, int], centre_crop: bool = False) -> Image.Image:
    """An attention map, on ``grid`` or a square of its own, over its image or the image's centre; bright is high."""
    image = ImageOps.fit(image, [min(image.size)] * 2) if centre_crop else image
    heat = np.asarray(attention, dtype=float)
    heat = heat.reshape(grid if heat.size == math.prod(grid) else [math.isqrt(heat.size)] * 2)
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    heat = Image.fromarray((255 * heat).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    colours = Image.fromarray((matplotlib.colormaps["inferno"](np.asarray(heat))[..., :3] * 255).astype(np.uint8))
    return Image.composite(colours, image.convert("L").convert("RGB"), heat.point(lambda value: value * 0.85))
