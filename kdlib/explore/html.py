"""Pieces of HTML for the explorer: cards, rankings of images and captions, short tables and curves.

They are strings, not figures, so that the page answers a change of a chooser at once.
"""

import html
from collections.abc import Iterable, Sequence

from kdlib.finished import Finished
from kdlib.report import pictures, style
from kdlib.trainer import FACTS

STYLE = """<style>
.kd { color: var(--jp-ui-font-color1, #1f2328); font-size: 14px; line-height: 1.4; overflow-wrap: anywhere; }
.kd h2 { font-size: 1.25em; margin: 1em 0 .3em; }
.kd h3 { font-size: 1em; margin: .9em 0 .2em; }
.kd p { margin: .3em 0; max-width: 46em; }
.kd div.beside { display: flex; flex-wrap: wrap; gap: 0 3em; }
.kd div.beside > div { flex: 1 1 20em; min-width: 0; max-width: 36em; }
.kd svg.chart { width: 100%; max-width: 480px; height: auto; font-size: 13px; fill: currentColor; }
.kd table { border-collapse: collapse; margin: .3em 0; }
.kd caption { text-align: left; font-size: 12px; }
.kd th, .kd td { text-align: left; padding: 2px 10px 2px 0; border-bottom: 1px solid var(--jp-border-color2, #bbb); }
.kd .message { border-left: 4px solid #de8f05; padding: .3em .7em; }
.kd ol.texts { margin: .2em 0; padding-left: 1.6em; }
</style>"""


def card(*parts: str, live: bool = False) -> str:
    """The parts as one block; with ``live`` a screen reader reads it out when it changes."""
    return f'<div class="kd"{" aria-live=polite" if live else ""}>{"".join(parts)}</div>'


def words(text: str) -> str:
    """A paragraph, as HTML."""
    return f"<p>{html.escape(text)}</p>"


def message(text: str) -> str:
    """A message that stands out, as HTML; '' for no text."""
    return f'<p class="message" role="alert">{html.escape(text)}</p>' if text else ""


def heading(text: str, level: int = 2) -> str:
    """A heading, as HTML."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def beside(*parts: str) -> str:
    """The parts side by side, or below each other where the page is narrow."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def scored_picture(
    run: Finished, index: int, caption: str, alt: str, side: int = pictures.SIDE, framed: bool = False
) -> str:
    """A scored image with its words; thumbnails are kept, so that it is decoded once."""
    config = run.config
    key = (config.dataset, config.data_root, config.score_on, run.result["data"][config.score_on]["fingerprint"])
    if (key, index, side) not in _THUMBNAILS:
        if len(_THUMBNAILS) >= THUMBNAILS:
            _THUMBNAILS.clear()
        _THUMBNAILS[key, index, side] = pictures.jpeg(run.image(index), side)
    return pictures.captioned(_THUMBNAILS[key, index, side], caption, alt, framed, side)


THUMBNAILS = 4096  # some 4 kB each
_THUMBNAILS: dict[tuple, str] = {}


def ranking(run: Finished, rows: Sequence[int], cosines: Sequence[float], common: Iterable[int], what: str) -> str:
    """Images, best first, those that are in ``common`` framed and named; ``what`` they are nearest to."""
    shown = []
    for place, (index, cosine) in enumerate(zip(rows, cosines, strict=True), start=1):
        text = f"{run.describe(index)} ({cosine:.2f})" + (" · both" if index in common else "")
        alt = f"Number {place} for {what}: image {index + 1}, {run.describe(index)}"
        shown.append(scored_picture(run, index, text, alt, framed=index in common))
    return pictures.row(shown, ordered=True)


def captions(run: Finished, rows: Sequence[int], cosines: Sequence[float], own: Iterable[int] = ()) -> str:
    """Captions, best first; those in ``own`` are marked as the image's own."""
    items = [
        f"<li>{html.escape(run.texts[text])} ({cosine:.2f}){' · <strong>its own</strong>' if text in own else ''}</li>"
        for text, cosine in zip(rows, cosines, strict=True)
    ]
    return f'<ol class="texts">{"".join(items)}</ol>'


def result(run: Finished) -> str:
    """The headline score of the student between its controls."""
    rows = {"student": f"student, {run.config.epochs} epochs", "untrained": "student, untrained"}
    rows |= {"pca": "PCA of the teacher", "teacher": "teacher"}
    lines = []
    for who, name in rows.items():
        low, high = run.interval(who)
        lines.append(f"<tr><th scope=row>{name}</th><td>{run.score(who):.3f}</td><td>[{low:.3f}, {high:.3f}]</td></tr>")
    size = run.result["size"]
    return (
        f"<table><caption>{style.score_name(run.headline)}, {len(run)} images</caption>"
        f"<tr><th scope=col>encoder</th><th scope=col>score</th><th scope=col>95 % interval</th></tr>"
        f"{''.join(lines)}</table>"
        + words(f"Student {size['student_mb']:.2f} MB, all that inference needs {size['deployed_mb']:.2f} MB.")
        + words(f"Finished {run.result['finished']}, code {run.result['versions']['commit'] or 'without a commit'}.")
    )


def curves(run: Finished) -> str:
    """Loss and its terms by epoch, as SVG: a figure would take most of the time of an answer."""
    history = run.result["history"]
    terms = {name: [line[name] for line in history] for name in history[0] if name not in FACTS}
    if len(terms) == 2:  # the loss and its only term are the same line
        terms = {"loss": terms["loss"]}
    high, last = max(map(max, terms.values())) or 1.0, max(len(history) - 1, 1)
    lines = []
    for place, (name, values) in enumerate(terms.items()):
        points = " ".join(f"{60 + 400 * x / last:.1f},{180 - 160 * y / high:.1f}" for x, y in enumerate(values))
        dashes, y = DASHES[place % len(DASHES)], 24 + 18 * place
        stroke = f'fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="{dashes}"'
        lines.append(f'<polyline points="{points}" {stroke}/><path d="M268,{y} h30" {stroke}/>')
        lines.append(f'<text x="304" y="{y + 4}">{html.escape(name.replace("_", " "))}</text>')
    axes = '<path d="M60,20 V180 H460" fill="none" stroke="currentColor"/>'
    ticks = f'<text x="54" y="24" text-anchor="end">{high:.2f}</text><text x="54" y="184" text-anchor="end">0</text>'
    ticks += f'<text x="60" y="200">1</text><text x="460" y="200" text-anchor="end">{len(history)} epochs</text>'
    first, end = history[0]["loss"], history[-1]["loss"]
    alt = f"Loss by epoch: {first:.3f} in epoch 1, {end:.3f} in epoch {len(history)}."
    drawn = (
        f'<svg class="chart" viewBox="0 0 480 206" role="img" aria-label="{alt}">{axes}{ticks}{"".join(lines)}</svg>'
    )
    return heading("Mean training loss of each epoch", 3) + drawn


DASHES = ("none", "7 3", "2 3", "9 3 2 3")
