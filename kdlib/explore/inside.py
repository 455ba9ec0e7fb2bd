"""The parts of the notebook inside, one function each: what was transferred from teacher to student.

Each takes the finished runs that :func:`read` returns, and shows tables and figures; without a run it shows nothing.
"""

import re
from collections.abc import Callable
from functools import wraps

import numpy as np
import pandas as pd
import torch

from kdlib import finished
from kdlib.data import DataError
from kdlib.evaluate import knn
from kdlib.evaluate.retrieval import DEPTHS
from kdlib.evaluate.uncertainty import holm, interval, replicate_means, resamples
from kdlib.explore import inside_figures, search, transfer
from kdlib.features.npy import StoreError
from kdlib.finished import Finished
from kdlib.report import display, pictures, style
from kdlib.study.file import METHODS
from kdlib.teachers import TeacherError

NEAREST = 5
PICTURES = 6  # images of an attention figure
GROUPS = 6  # in colour on a map
WORST = 15  # groups of a figure


def read(study: str, teacher: str, dataset: str = "", methods: str = "", seed: int = 0, epochs: int = 0) -> list:
    """Return the finished runs to compare, one per student, and show what a reader must know of them.

    ``methods``: folder names separated by spaces or commas, as 'resnet resnet+no_teacher'; '' takes all without
    variants. ``epochs`` 0: the most that any of them has. Without a finished run it shows what to do.
    """
    wanted = re.split(r"[\s,]+", methods.strip()) if methods.strip() else []
    found = [run for run in finished.find(study, teacher, dataset, wanted) if wanted or not run.config.variant]
    most = epochs or max((run.config.epochs for run in found), default=0)
    runs = [run for run in found if run.config.seed == seed and run.config.epochs == most]
    if not runs:
        display.notice(_nothing(study, teacher, dataset, methods, seed, epochs, found))
        return []
    runs.sort(key=_order)
    others = sorted({run.teacher_name for run in runs} - {runs[0].teacher_name})
    runs = [run for run in runs if run.teacher_name == runs[0].teacher_name]
    if others:
        display.notice(f"Shown is {runs[0].teacher_name}; set 'dataset' for {', '.join(others)}.")
    try:
        same = [run for run in runs if _features(run) == _features(runs[0])]
        _ = runs[0].rows
    except (StoreError, DataError) as error:
        display.notice(str(error))
        return []
    first = runs[0].config
    where = (
        f"study '{study}', {runs[0].teacher_name}, {most} epochs, seed {seed}; {len(runs[0])} {first.score_on} images"
    )
    display.begin(facts=f"{where}. [ ]: 95 % interval over them.")
    for run in runs:
        if run not in same:
            display.notice(f"{run.name} had another teacher's features and is left out; name it alone in 'methods'.")
    absent = [name for name in wanted if name not in {run.config.folder for run in runs}]
    if absent:
        display.notice(
            f"No finished run of {', '.join(absent)} after {most} epochs with seed {seed}: 'kdlib run' does it."
        )
    _head(same)
    return same


def _features(run: Finished) -> str:
    """The digest of the teacher's pooled features of the scored images."""
    return run.split.store.manifest["arrays"]["image_pooled"]["sha256"]


def _nothing(study, teacher, dataset, methods, seed, epochs, found) -> str:
    known = finished.find(study)
    if not known:
        return finished.what_to_do(study)
    have = sorted({f"{run.teacher_name}, {run.config.epochs} epochs, seed {run.config.seed}" for run in found or known})
    asked = ", ".join(filter(None, [teacher, dataset, methods, f"{epochs} epochs" if epochs else "", f"seed {seed}"]))
    return f"The study '{study}' has no finished run of {asked}. It has: {'; '.join(have)}."


def _order(run: Finished) -> tuple:
    config = run.config
    return bool(config.variant), METHODS.index(config.method) if config.method in METHODS else len(METHODS)


def _head(runs: list[Finished]) -> None:
    first = runs[0]
    facts = first.result["teacher"]
    display.words(
        f"{first.teacher_name}, {first.config.epochs} epochs, seed {first.config.seed}: {len(first)} images of "
        f"{first.config.score_on}, {len(runs)} students."
    )
    if facts["source"] == "stand-in":
        display.notice("Stand-in teacher: what is found here says nothing about the published checkpoint.")
    if facts["untrained"]:
        display.notice(f"Untrained teacher: {len(facts['untrained'])} weights that it uses were not in its checkpoint.")
    if old := [run.name for run in runs if run.outdated]:
        display.notice(f"{', '.join(old)}: {finished.OUTDATED}")
    lines = [(run.name, run.score(), _interval(run.interval()), run.score("untrained")) for run in runs]
    lines.append(("the teacher itself", first.score("teacher"), _interval(first.interval("teacher")), np.nan))
    names = ["student", style.score_name(first.headline), "95 % interval", "untrained"]
    display.table(pd.DataFrame(lines, columns=names), "What is compared", index=False)


def _interval(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _mean(values: np.ndarray) -> str:
    """A mean over images with its 95 % interval."""
    bounds = interval(replicate_means(values, resamples(len(values))))
    return f"{values.mean():.3f} {_interval(bounds)}"


def _where_any(part: Callable) -> Callable:
    """Wrap a part of the notebook so that it shows nothing without a run; :func:`read` has said what to do."""

    @wraps(part)
    def shown(runs: list[Finished], *args, **kwargs) -> None:
        if runs:
            part(runs, *args, **kwargs)

    return shown


# ---------------------------------------------------------------- attention


@_where_any
def attention(runs: list[Finished], count: int = PICTURES) -> None:
    """Where teacher and students look in the first images, and how alike their maps are over all of them."""
    first = runs[0]
    count = min(count, len(first))
    maps = {"teacher": first.teacher_attention[:count]}
    maps |= {run.name: run.attention[:count] for run in runs if run.attention is not None}
    crop = first.split.store.manifest["facts"]["centre_crop"]
    lines = pictures.looks([first.image(index) for index in range(count)], maps, first.grid, crop)
    display.pictures(lines, f"The first {count} scored images and, line by line, where {', '.join(maps)} look in them")
    silent = [run.name for run in runs if run.attention is None]
    if silent:
        display.words(
            f"Without an attention map: {', '.join(silent)}. They read pooled features, or are convolutional."
        )
    lines = []
    for run in runs:
        if run.attention is not None:
            own, other = transfer.map_agreement(first.teacher_attention, run.attention)
            lines.append((run.name, _mean(own), _mean(other)))
    if lines:
        names = ["student", "the same image", "another image"]
        display.table(
            pd.DataFrame(lines, columns=names),
            f"Correlation of the student's map with the teacher's, mean over {len(first)} images [95 % interval]; with "
            "the teacher's map of another image it is what always looking at the same places gives",
            False,
            kind="prose",
        )


# ---------------------------------------------------------------- layers


@_where_any
def layers(runs: list[Finished], sample: int = 500) -> None:
    """CKA of each student with each of the teacher's layers on a sample of the images, beside its controls."""
    first = runs[0]
    rows = np.unique(np.linspace(0, len(first) - 1, min(sample, len(first))).astype(int))
    spaces = {run.name: run.student_space["image"][rows] for run in runs}
    pooled = first.teacher_space["image"][rows]
    try:
        with display.busy(f"The teacher reads {len(rows)} images, layer by layer"):
            of_teacher = transfer.layer_features(search.teacher_of(first.config), first.image, rows)
    except (TeacherError, OSError) as error:
        display.notice(f"The teacher itself cannot be had, so its layers are left out: {error}")
        of_teacher = {}
    of_teacher["the feature itself"] = pooled
    columns = spaces | {"the teacher's feature": pooled}
    frame = pd.DataFrame(
        {
            name: [transfer.debiased_cka(features, space) for features in of_teacher.values()]
            for name, space in columns.items()
        },
        index=list(of_teacher),
    )
    constant = list(frame.index[frame.isna().all(axis=1)])
    frame = frame.drop(index=constant)
    nearest = ", ".join(f"{name} {frame[name].idxmax()}" for name in spaces)
    display.figure(
        lambda narrow: inside_figures.heat(frame, "CKA", narrow),
        f"CKA of each student with each layer of the teacher on {len(rows)} images. Highest: {nearest}.",
    )
    if constant:
        display.words(f"Left out, since it is the same for every image: {', '.join(constant)}.")
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    lines = [
        (
            run.name,
            transfer.debiased_cka(pooled, spaces[run.name]),
            transfer.debiased_cka(pooled, spaces[run.name][mixed]),
            run.score("untrained", "cka"),
            run.score("student", "cka"),
        )
        for run in runs
    ]
    names = ["student", "debiased, this sample", "the same, images shuffled", "untrained, all images", "all images"]
    display.table(
        pd.DataFrame(lines, columns=names),
        "CKA with the teacher's feature. Shuffled images must give 0; an untrained projection keeps much of it, so "
        "only what is above that was learned (the last two columns are the record's, biased upwards by few images)",
        index=False,
    )


# ---------------------------------------------------------------- neighbours


@_where_any
def neighbours(runs: list[Finished], count: int = NEAREST) -> None:
    """How many of the teacher's nearest images each student keeps, with two images as examples."""
    first = runs[0]
    count = min(count, len(first) - 1)
    of_teacher = transfer.neighbours(first.teacher_space["image"], count)
    found = {run.name: transfer.neighbours(run.student_space["image"], count) for run in runs}
    shares = {name: transfer.kept(of_teacher, rows) for name, rows in found.items()}
    lines = [
        (
            run.name,
            _mean(shares[run.name]),
            _mean(run.queries("student", "neighbour_agreement")),
            _mean(run.queries("untrained", "neighbour_agreement")),
        )
        for run in runs
    ]
    chance = count / (len(first) - 1)
    names = ["student", f"of the {count} nearest", "the nearest one", "the nearest one, untrained"]
    display.table(
        pd.DataFrame(lines, columns=names),
        f"Share of the teacher's nearest images that are the student's too, mean over {len(first)} images [95 % "
        f"interval]; by chance {chance:.3f} and {1 / (len(first) - 1):.3f}",
        False,
        kind="prose",
    )
    said = ", ".join(f"{name} {share.mean():.2f}" for name, share in shares.items())
    display.figure(
        lambda narrow: inside_figures.kept(shares, count, narrow),
        f"Share of the images by how many of the teacher's {count} nearest images a student keeps. Means: {said}.",
    )
    order = np.argsort(np.mean(list(shares.values()), axis=0), kind="stable")
    for index, words in ((order[len(order) // 2], "half of the images keep more"), (order[0], "none keeps less")):
        _example(first, int(index), of_teacher, found, f"Image {index + 1}, '{first.describe(index)}': {words}")


def _example(run: Finished, index: int, of_teacher: np.ndarray, found: dict, title: str) -> None:
    shown = [pictures.row([pictures.captioned(run.image(index), f"image {index + 1}")])]
    for name, rows in {"teacher": of_teacher, **found}.items():
        common = set(rows[index]) & set(of_teacher[index]) if name != "teacher" else set()
        line = [pictures.captioned(run.image(row), run.describe(row), framed=row in common) for row in rows[index]]
        shown.append(pictures.row(line, f"{name}: {len(common)} in common" if name != "teacher" else name))
    display.pictures(shown, f"{title}. Its nearest images for the teacher and each student; framed: the teacher's too")


# ---------------------------------------------------------------- the plane


@_where_any
def plane(runs: list[Finished]) -> None:
    """The same images in the plane of the teacher's two main axes, for the teacher and each student."""
    first = runs[0]
    groups = _plane_groups(first)
    planes = {run.name: transfer.plane(first.teacher_space["image"], run.student_space["image"]) for run in runs}
    said = ", ".join(f"{name} {found.explained:.2f}" for name, found in planes.items())
    display.figure(
        lambda narrow: inside_figures.planes(planes, groups, narrow),
        f"{len(first) // 2} images in the plane of the teacher's two main axes, for teacher and students. Share "
        f"of the teacher's variance in all dimensions that the aligned student explains: {said}.",
    )
    what = "classes" if first.labels is not None else "categories, of images that show one alone"
    display.words(
        f"The two axes show {next(iter(planes.values())).shown:.0%} of the teacher's variance; in colour the "
        f"{len(groups)} most frequent {what}. Each student was rotated and scaled as a whole onto the teacher by every "
        "second image, and the others are shown."
    )
    display.words(
        "What such a map can show: whether large groups keep their places. What it cannot: distances in the dimensions "
        "that were left out. Points that touch here may be far apart, and a student whose map looks the same may still "
        "have other neighbours; the numbers above are about all dimensions."
    )


def _plane_groups(run: Finished) -> dict[str, np.ndarray]:
    """Name -> images of the most frequent classes, or of the categories of images that show a single one."""
    if run.labels is not None:
        names, labels = run.data.class_names, run.labels
    else:
        names = run.data.category_names
        only = [run.data.categories[row] for row in run.rows]
        labels = np.array([categories[0] if len(categories) == 1 else -1 for categories in only])
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    frequent = [group for group in np.argsort(-counts, kind="stable")[:GROUPS] if counts[group]]
    return {names[group]: np.flatnonzero(labels == group) for group in frequent}


# ---------------------------------------------------------------- groups


@_where_any
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
    whole["95 % interval"] = [_interval((row.low, row.high)) for row in whole.itertuples()]
    shown = whole[["student", "group", "images", "difference", "95 % interval"]]
    with display.fold(f"all numbers by {kind}"):
        display.table(shown, f"By {kind}: {score}, student minus teacher", False)


# ---------------------------------------------------------------- from one number of epochs to a larger one


@_where_any
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
