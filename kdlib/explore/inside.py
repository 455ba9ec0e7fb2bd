"""The parts of the notebook inside, one function each: what was transferred from teacher to student.

Each takes the finished runs that :func:`read` returns, and shows tables and figures; without a run it shows nothing.
What a student gets wrong is in :mod:`kdlib.explore.mistakes`.
"""

import re
from collections.abc import Callable
from functools import wraps

import numpy as np
import pandas as pd
import torch

from kdlib import finished
from kdlib.data import DataError
from kdlib.evaluate.uncertainty import interval, replicate_means, resamples
from kdlib.explore import inside_figures, search, transfer
from kdlib.features.npy import StoreError
from kdlib.finished import Finished
from kdlib.report import display, pictures, style
from kdlib.study.file import METHODS
from kdlib.teachers import TeacherError

NEAREST = 5
PICTURES = 6  # images of an attention figure
GROUPS = 6  # in colour on a map


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
    lines = [(run.name, run.score(), interval_text(run.interval()), run.score("untrained")) for run in runs]
    lines.append(("the teacher itself", first.score("teacher"), interval_text(first.interval("teacher")), np.nan))
    names = ["student", style.score_name(first.headline), "95 % interval", "untrained"]
    display.table(pd.DataFrame(lines, columns=names), "What is compared", index=False)


def interval_text(bounds: tuple[float, float]) -> str:
    """The bounds of an interval in brackets, as every table has them."""
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _mean(values: np.ndarray) -> str:
    """A mean over images with its 95 % interval."""
    bounds = interval(replicate_means(values, resamples(len(values))))
    return f"{values.mean():.3f} {interval_text(bounds)}"


def where_any(part: Callable) -> Callable:
    """Wrap a part of the notebook so that it shows nothing without a run; :func:`read` has said what to do."""

    @wraps(part)
    def shown(runs: list[Finished], *args, **kwargs) -> None:
        if runs:
            part(runs, *args, **kwargs)

    return shown


# ---------------------------------------------------------------- attention


@where_any
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


@where_any
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


@where_any
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


@where_any
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
