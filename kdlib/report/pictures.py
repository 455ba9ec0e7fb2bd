"""Photographs on a page, as HTML: each with its words below it, in lines that break where the page is narrow.

Words are the browser's, so that class names and captions in any script are drawn. Styles stand on the elements: the
same pieces serve a report, JupyterLab and the explorer.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageOps

SIDE, LARGE = 112, 192  # pixels of a picture's longer side
ALPHA = 0.6  # of an attention map over its image


def jpeg(image: Image.Image, side: int = SIDE) -> str:
    """A picture as base64, its longer side ``side`` pixels."""
    fitted = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    fitted.save(buffer, format="JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def captioned(picture: Image.Image | str, caption: str, alt: str = "", framed: bool = False, side: int = SIDE) -> str:
    """A picture, or its base64, with words below it; ``framed``: it is right, or in common.

    ``alt`` describes it where the words below do not.
    """
    data = picture if isinstance(picture, str) else jpeg(picture, side)
    edge = "currentColor" if framed else "transparent"
    look = f"display:block;width:{side}px;max-width:100%;border:4px solid {edge};box-sizing:border-box"
    said = html.escape(alt or caption or "an image") + (" (framed)" if framed else "")
    words = f'<figcaption style="font-size:12px;overflow-wrap:anywhere">{html.escape(caption)}</figcaption>'
    image = f'<img src="data:image/jpeg;base64,{data}" alt="{said}" style="{look}">'
    return f'<figure style="margin:0;width:{side + 8}px">{image}{words if caption else ""}</figure>'


def row(figures: Iterable[str], title: str = "", ordered: bool = False) -> str:
    """Pictures side by side, under a title; as an ordered list, where they are a ranking."""
    line = "display:flex;flex-wrap:wrap;gap:8px;padding:0;margin:.2em 0 .6em;list-style:none"
    head = f'<p style="margin:.5em 0 .1em">{html.escape(title)}</p>' if title else ""
    if ordered:
        return f'{head}<ol style="{line}">{"".join(f"<li>{one}</li>" for one in figures)}</ol>'
    return f'{head}<div style="{line}">{"".join(figures)}</div>'


def overlay(image: Image.Image, heat: np.ndarray, grid: tuple[int, int], centre_crop: bool) -> Image.Image:
    """An attention map (h * w,) over its image, brightest where it is highest."""
    image = as_seen(image, centre_crop).convert("RGB").resize((LARGE, LARGE * image.height // image.width))
    heat = np.asarray(heat, dtype=np.float64).reshape(grid)
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    colours = (matplotlib.colormaps["magma"](heat)[..., :3] * 255).astype(np.uint8)
    return Image.blend(image, Image.fromarray(colours).resize(image.size, Image.Resampling.NEAREST), ALPHA)


def as_seen(image: Image.Image, centre_crop: bool) -> Image.Image:
    """An image as the teacher sees it: without the borders where it crops them."""
    return ImageOps.fit(image, (min(image.size),) * 2) if centre_crop else image


def looks(
    images: Sequence[Image.Image], maps: dict[str, np.ndarray], grid: tuple[int, int], centre_crop: bool
) -> list[str]:
    """A line of the images, and one for each of ``maps`` (who looks -> (images, h * w)) over them."""
    lines = [row([captioned(as_seen(image, centre_crop), "", f"Image {n + 1}") for n, image in enumerate(images)])]
    for who, heat in maps.items():
        over = [overlay(image, one, grid, centre_crop) for image, one in zip(images, heat, strict=True)]
        said = [captioned(image, "", f"Where the {who} looks in image {n + 1}") for n, image in enumerate(over)]
        lines.append(row(said, f"where the {who} looks"))
    return lines


def listed(texts: Sequence[str], right: Sequence[bool]) -> str:
    """Captions, best first, the right ones marked."""
    lines = [f"<li>{'✓ <strong>' if good else ''}{html.escape(text)}{'</strong>' if good else ''}</li>"
             for text, good in zip(texts, right, strict=True)]  # fmt: skip
    return f'<ol style="margin:.2em 0;padding-left:1.6em">{"".join(lines)}</ol>'


def beside(*parts: str) -> str:
    """Parts side by side, or below each other where the page is narrow."""
    line = "display:flex;flex-wrap:wrap;gap:0 2em;margin:.3em 0"
    return f'<div style="{line}">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'
