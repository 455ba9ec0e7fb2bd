"""What a student gets wrong: the groups in which it loses most, and what further training mends and breaks.

They are parts of the notebook inside; each takes the finished runs that :func:`kdlib.explore.inside.read` returns.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from kdlib import finished
from kdlib.evaluate import knn
from kdlib.evaluate.retrieval import DEPTHS
from kdlib.evaluate.uncertainty import holm
from kdlib.explore import inside_figures, transfer
from kdlib.explore.inside import interval_text, where_any
from kdlib.finished import Finished
from kdlib.report import display, pictures, style

WORST = 15  # groups of a figure


# ---------------------------------------------------------------- groups


@where_any
def losses(runs: list[Finished]) -> None:
    """Which classes, categories and captions lose most from teacher to student."""
    first = runs[0]
    if first.labels is not None:
        names = first.data.class_names
        groups = {names[label]: first.labels == label for label in np.unique(first.labels)}
        values = {who: lambda run, who=who: run.queries(who, first.headline) for who in ("student", "teacher")}
        _group_figure(runs, "class", values, np.arange(len(first)), groups, style.score_name(first.headline))
        return
    relevant, owner = first.embeddings.get(f"{first.config.score_on}/relevant"), first.owner
    both = {who: lambda run, who=who: _recall_by_image(run, who) for who in ("student", "teacher")}
    if relevant is not None:
        names = first.data.category_names
        groups = {names[column]: relevant[:, column] for column in range(relevant.shape[1])}
        _group_figure(runs, "category", both, np.arange(len(first)), groups, "mean recall")
        many = transfer.thirds(relevant.sum(axis=1), "categories in it")
        _group_figure(runs, "number of categories", both, np.arange(len(first)), many, "mean recall")
    lengths = np.array([len(text.split()) for text in first.texts])
    by_text = {who: lambda run, who=who: _recall(run, who, "t2i") for who in ("student", "teacher")}
    groups = transfer.thirds(lengths, "words")
    _group_figure(runs, "length of the caption", by_text, owner, groups, "caption to image, mean of R@1, 5, 10")


def _recall(run: Finished, who: str, way: str) -> np.ndarray:
    """Mean of R@1, R@5 and R@10 of each query."""
    return np.mean([run.queries(who, f"{way}_r@{depth}") for depth in DEPTHS], axis=0)


def _recall_by_image(run: Finished, who: str) -> np.ndarray:
    """(N,) the mean recall of each image: that of the image, and the mean of its captions', averaged."""
    texts = np.bincount(run.owner, weights=_recall(run, who, "t2i")) / np.bincount(run.owner)
    return (_recall(run, who, "i2t") + texts) / 2


def _group_figure(runs: list, kind: str, values: dict, owner: np.ndarray, groups: dict, score: str) -> None:
    frames = {
        run.name: transfer.by_group(values["student"](run) - values["teacher"](run), owner, groups) for run in runs
    }
    means = pd.concat(frames.values()).groupby("group", sort=False).difference.mean().sort_values(kind="stable")
    order = list(means.index[:WORST])
    cut = f" Of {len(means)} groups the {WORST} that lose most." if len(means) > WORST else ""
    few = int(next(iter(frames.values())).few.sum())
    pale = f" {few} groups with fewer than {transfer.FEW} images are pale." if few else ""
    said = ", ".join(f"{group} {means[group]:+.2f}" for group in order[:3])
    methods = {run.name: run.config.method for run in runs}
    display.figure(
        lambda narrow: inside_figures.losses(frames, order, methods, narrow),
        f"Student minus teacher in {score}, by {kind}, with 95 % intervals, a panel a student. Lowest, mean over the "
        f"students: {said}.{cut}{pale}",
    )
    display.words(
        f"By {kind}: {score}, student minus teacher; lowest at the top.{cut}{pale} Of 20 intervals one leaves out the "
        "true value, so a single group that stands out is a question, not a finding."
    )
    whole = pd.concat(frames, names=["student", ""]).reset_index("student")
    whole["95 % interval"] = [interval_text((row.low, row.high)) for row in whole.itertuples()]
    shown = whole[["student", "group", "images", "difference", "95 % interval"]]
    with display.fold(f"all numbers by {kind}"):
        display.table(shown, f"By {kind}: {score}, student minus teacher", False)


# ---------------------------------------------------------------- from one number of epochs to a larger one


@where_any
def flows(runs: list[Finished], before: int = 0, count: int = 3) -> None:
    """Which images further training mended and which it broke, with examples.

    ``before``: the smaller number of epochs; 0 takes the smallest finished one.
    """
    pairs = {run.name: (_earlier(run, before), run) for run in runs}
    alone = [name for name, (earlier, _) in pairs.items() if earlier is None]
    if alone:
        display.notice(f"No finished run after fewer epochs: {', '.join(alone)}. Nothing to compare with.")
    pairs = {name: pair for name, pair in pairs.items() if pair[0] is not None}
    if not pairs:
        return
    first = runs[0]
    score, right = first.answered
    found = {
        name: transfer.flow(earlier.queries("student", score), later.queries("student", score))
        for name, (earlier, later) in pairs.items()
    }
    methods = {run.name: run.config.method for run in runs}
    corrected = holm([one.p for one in found.values()])
    lines = [
        (
            name,
            f"{pairs[name][0].config.epochs} to {pairs[name][1].config.epochs}",
            *(len(part) for part in (one.right, one.mended, one.broken, one.wrong)),
            len(one.mended) - len(one.broken),
            f"{p:.3f}" if p >= 0.001 else "< 0.001",
        )
        for (name, one), p in zip(found.items(), corrected, strict=True)
    ]
    names = ["student", "epochs", "right both times", "mended", "broken", "wrong both times", "net", "p, Holm"]
    display.table(
        pd.DataFrame(lines, columns=names),
        f"Images by what further training did; right: {right}. p: exact McNemar test that mended and broken are "
        "equally likely",
        index=False,
    )
    display.figure(
        lambda narrow: inside_figures.flows(found, methods, narrow),
        "Images mended and broken by further training: "
        + ", ".join(f"{name} +{len(one.mended)} −{len(one.broken)}" for name, one in found.items()),
    )
    name = max(found, key=lambda key: len(found[key].mended) + len(found[key].broken))
    _changed(*pairs[name], found[name], count)


def _earlier(run: Finished, before: int) -> Finished | None:
    config = run.config
    same = finished.find(config.study, config.teacher, config.dataset, [config.folder], config.seed)
    fewer = [one for one in same if one.config.epochs < config.epochs and before in (0, one.config.epochs)]
    return min(fewer, key=lambda one: one.config.epochs, default=None)


def _changed(earlier: Finished, later: Finished, flow: transfer.Flow, count: int) -> None:
    """The first images that were mended and broken, with what the student took them for."""
    said = [_answers(earlier), _answers(later)]
    for rows, word in ((flow.mended[:count], "mended"), (flow.broken[:count], "broken")):
        if not len(rows):
            continue
        titles = [
            f"{earlier.config.epochs} epochs: {said[0](row)}; {later.config.epochs} epochs: {said[1](row)}"
            for row in rows
        ]
        shown = [
            pictures.captioned(later.image(row), f"{later.describe(row)}. {title}", side=pictures.LARGE)
            for row, title in zip(rows, titles, strict=True)
        ]
        display.pictures([pictures.row(shown)], f"The first {len(rows)} images that were {word} in {later.name}")


def _answers(run: Finished) -> Callable[[int], str]:
    """What a student takes an image for: the class by k-NN, or the nearest caption."""
    if run.labels is None:
        texts, images = run.student_space["text"], run.student_space["image"]
        return lambda row: run.texts[knn.nearest(images[row], texts, 1)[0][0]]
    made, on = run.embeddings, run.config.score_on
    bank = [name for name in ("fit", "dev") if f"{name}/image" in made and name != on]
    named = knn.predict(
        torch.from_numpy(np.concatenate([made[f"{name}/image"] for name in bank])),
        np.concatenate([made[f"{name}/labels"] for name in bank]),
        torch.from_numpy(made[f"{on}/image"]),
    )
    return lambda row: run.data.class_names[named[row]]
