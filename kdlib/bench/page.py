"""The parts of the benches' report, one function each, for the notebook bench."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from kdlib.files import read_json, reports_root
from kdlib.report import display


def read(name: str = "bench") -> dict:
    """The record of reports/<name>/bench.json. Raises FileNotFoundError, with the remedy, where there is none."""
    path = reports_root() / name / "bench.json"
    if (record := read_json(path)) is None:
        raise FileNotFoundError(f"{path}: no bench has run here yet; 'make bench' (or 'kdlib bench') runs all of them.")
    return record


def frame(record: dict) -> pd.DataFrame:
    """The rows; ``reach`` is the ratio in units of its bar, at least 1 if the bar is met, NaN without a bar."""
    rows = pd.DataFrame(record["rows"])
    reach = rows.ratio / rows.bar.astype(float)
    return rows.assign(reach=reach.where(~rows.at_most, 1 / reach))


def head(record: dict) -> None:
    """Machine, versions, and how many bars are met."""
    rows = frame(record)
    barred = rows.dropna(subset="bar")
    display.words(f"{(barred.reach >= 1).sum()} of {len(barred)} bars are met. Measured on:")
    for words, part in rows.groupby(rows.apply(_made_with, axis=1), sort=False):
        display.words(f"{words}: {', '.join(dict.fromkeys(part.bench))}.")
    for row in barred[barred.reach < 1].itertuples():
        display.notice(f"Not met: {row.what}: {row.ratio:.2f}, bar {row.bar:g}.")


def _made_with(row: pd.Series) -> str:
    machine, made = row.hardware, row.versions
    libraries = ", ".join(f"{name} {made[name]}" for name in ("torch", "transformers") if name in made)
    return f"{machine['name']}, {machine['cores']} cores, {libraries}, commit {made['commit'] or 'unknown'}"


def picture(record: dict) -> None:
    """Each ratio against its bar."""
    rows = frame(record).dropna(subset="bar")
    words = "; ".join(f"{row.what}: {row.ratio:.3g}, bar {row.bar:g}" for row in rows.itertuples())
    display.figure(lambda narrow: draw(rows), f"How far each ratio is past its bar. {words}.")


def draw(rows: pd.DataFrame) -> Figure:
    """One line a row: how many times its bar a ratio reaches, on a logarithmic axis."""
    drawn, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1.2), layout="constrained")
    place = range(len(rows))[::-1]
    met = rows.reach >= 1
    axes.hlines(place, 1, rows.reach, color="0.7", lw=2, zorder=1)
    for good, colour, word, marker in ((True, "#0072B2", "met", "o"), (False, "#D55E00", "not met", "X")):
        chosen = [here for here, ok in zip(place, met, strict=True) if ok == good]
        axes.scatter(rows.reach[met == good], chosen, color=colour, s=60, marker=marker, label=word, zorder=2)
    axes.axvline(1, color="black", lw=1)
    for here, row in zip(place, rows.itertuples(), strict=True):
        text = f"{row.ratio:.3g} ({'≤' if row.at_most else '≥'} {row.bar:g})"
        axes.annotate(text, (row.reach, here), (8, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(list(place), [_short(what) for what in rows.what], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(min(0.5, rows.reach.min() / 1.5), rows.reach.max() * 6)
    axes.set_xlabel("times its bar")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not met.all():
        axes.legend(frameon=False, loc="lower right")
    return drawn


def _short(what: str, longest: int = 62) -> str:
    return what if len(what) <= longest else f"{what[: longest - 1].rsplit(' ', 1)[0]} …"


def rows(record: dict) -> None:
    """Every row with both sides of its ratio."""
    table = frame(record)
    table["bar"] = [
        "" if pd.isna(row.bar) else f"{'≤' if row.at_most else '≥'} {row.bar:g}" for row in table.itertuples()
    ]
    shown = table[["what", "against", "ratio", "bar", "ours", "theirs", "unit", "note", "images"]]
    shown = shown.assign(**{name: [f"{value:.4g}" for value in table[name]] for name in ("ratio", "ours", "theirs")})
    display.table(shown, "Measured side by side, medians", False, kind="prose")
