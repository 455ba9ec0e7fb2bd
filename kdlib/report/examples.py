"""Pictures for an experiment's page, chosen by a rule: what the student gets right and wrong, where it looks."""

import numpy as np
import torch
from PIL import Image

from kdlib.evaluate.embed import embed
from kdlib.experiment import Experiment
from kdlib.finished import Finished
from kdlib.report import display, gallery, pictures

THUMBNAIL = 128  # pixels a side: as large as a picture is drawn
HARDEST = 8


def samples(experiment: Experiment, count: int = 6) -> None:
    """The first test images with their class or caption."""
    rows = range(min(count, len(experiment.exam.scored)))
    shown = [pictures.captioned(_image(experiment, row), _described(experiment, row)) for row in rows]
    display.pictures([pictures.row(shown)], f"The first images of {experiment.exam.on}, with class or first caption")


def _image(experiment: Experiment, row: int, split: str = "") -> Image.Image:
    """Image ``row`` of a split's store as a thumbnail; by default of the scored split."""
    split = split or experiment.exam.on
    image = experiment.data[split].images.at_least(int(experiment.splits[split].store.rows[row]), THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _described(experiment: Experiment, row: int, split: str = "") -> str:
    split = split or experiment.exam.on
    data, place = experiment.data[split], int(experiment.splits[split].store.rows[row])
    return data.captions[place][0] if data.captions is not None else data.class_names[data.labels[place]]


def examples(experiment: Experiment, record: dict) -> None:
    """What the student gets right and wrong, chosen by :mod:`kdlib.report.gallery`'s rules."""
    if not all(wire["passed"] for wire in record["wires"]):
        display.notice("Not shown, since a trip-wire was tripped.")
        return
    with np.load(experiment.run.embeddings_path(experiment.config.epochs)) as arrays:
        wanted = {"image", "text", "owner", "labels"}
        kept = {name: arrays[name] for name in arrays.files if name.partition("/")[2] in wanted}
    (_retrieved if experiment.exam.has_text else _classified)(experiment, Finished(experiment.run, record), kept)


# ---------------------------------------------------------------- captions and images


def _retrieved(experiment: Experiment, run: Finished, arrays: dict[str, np.ndarray]) -> None:
    on = experiment.exam.on
    images, captions = (torch.from_numpy(arrays[f"{on}/{side}"]) for side in ("image", "text"))
    owner, rows = arrays[f"{on}/owner"], experiment.splits[on].store.rows
    texts = [text for row in rows for text in experiment.data[on].captions[row]]
    ranks = {way: [run.queries(who, f"{way}_rank") for who in ("student", "teacher")] for way in ("t2i", "i2t")}
    lines = [
        pictures.row(
            [pictures.captioned(_image(experiment, row), str(place), f"number {place}", good)
             for place, (row, good) in enumerate(zip(answer.found, answer.right, strict=True), start=1)],
            f"“{texts[answer.query]}”: {_ranks(answer)}",
        )
        for answer in gallery.answers(captions, images, lambda text, image: owner[text] == image, *ranks["t2i"],
                                      gallery.CAPTIONS)
    ]  # fmt: skip
    display.pictures(
        lines,
        f"Captions with the student's five nearest images, the right one framed. All {len(owner):,} captions are "
        f"sorted by the student's rank of their image; those at {_percent(gallery.CAPTIONS)} % are shown. Rank 1 is a "
        f"hit, up to {gallery.NEAR} a near miss, more a failure",
    )
    lines = [
        pictures.beside(
            pictures.captioned(_image(experiment, answer.query), _ranks(answer)),
            pictures.listed([texts[row] for row in answer.found], answer.right),
        )
        for answer in gallery.answers(
            images, captions, lambda image, text: owner[text] == image, *ranks["i2t"], gallery.IMAGES
        )
    ]
    said = f"The images at {_percent(gallery.IMAGES)} % of the rank of their best caption, with the nearest captions"
    display.pictures(lines, said)


def _ranks(answer: gallery.Answer) -> str:
    return f"{answer.outcome}: rank {answer.student_rank:g} for the student, {answer.teacher_rank:g} for the teacher"


def _percent(quantiles) -> str:
    return ", ".join(f"{100 * quantile:.0f}" for quantile in quantiles)


# ---------------------------------------------------------------- classes


def _classified(experiment: Experiment, run: Finished, arrays: dict[str, np.ndarray]) -> None:
    on, names = experiment.exam.on, experiment.data[experiment.exam.on].class_names
    credit = {who: run.queries(who, run.headline) for who in ("student", "teacher")}
    bank = np.concatenate([arrays[f"{split}/image"] for split in experiment.exam.bank])
    bank_labels = np.concatenate([arrays[f"{split}/labels"] for split in experiment.exam.bank])
    scored, labels = torch.from_numpy(arrays[f"{on}/image"]), arrays[f"{on}/labels"]
    near = gallery.neighbours(torch.from_numpy(bank), bank_labels, scored, labels)
    shown = gallery.by_class(labels, credit["student"], credit["teacher"], names).drop(columns="label")
    caption = "in which the student is right least often: share right by k-NN top-1 (k = 20)"
    display.table(shown.head(HARDEST), f"The {min(HARDEST, len(shown))} of {len(shown)} classes {caption}", False)
    if len(shown) > HARDEST:
        with display.fold(f"all {len(shown)} classes"):
            display.table(shown, "Share right by k-NN top-1 (k = 20) by class", False)
    _confused(experiment, near, bank_labels, names)
    _near(experiment, near, bank_labels, names)


def _confused(experiment: Experiment, near: gallery.Neighbours, bank_labels: np.ndarray, names) -> None:
    pairs, lines = gallery.confusions(near), []
    if not pairs:
        return
    for pair in pairs:
        shown = [pictures.captioned(_image(experiment, pair.row), "test image")]
        for label, framed in ((pair.label, True), (pair.taken_for, False)):
            for row in np.flatnonzero(bank_labels == label)[:2]:
                shown.append(pictures.captioned(_of_bank(experiment, int(row))[0], names[label], framed=framed))
        said = f"{names[pair.label]} taken for {names[pair.taken_for]}: {pair.count} of {pair.of} images"
        lines.append(pictures.row(shown, said))
    looked = len(near.rows)
    counted = "" if looked == len(experiment.exam.scored) else f", counted over {looked:,} images, evenly spaced"
    display.pictures(
        lines,
        f"The most frequent confusions{counted}: the first such test image, then the first two training images of its "
        "class (framed) and of the class it is taken for",
    )


def _near(experiment: Experiment, near: gallery.Neighbours, bank_labels: np.ndarray, names) -> None:
    lines = []
    for place in gallery.at_quantiles(near.share, gallery.NEIGHBOURS):
        row, own, taken, k = int(near.rows[place]), near.labels[place], near.predicted[place], near.index.shape[1]
        answer = "recognised" if own == taken else f"taken for {names[taken]}"
        shown = [pictures.captioned(_image(experiment, row), "test image")]
        for one in near.index[place, :5]:
            image, words = _of_bank(experiment, int(one))
            shown.append(pictures.captioned(image, words, framed=bool(bank_labels[one] == own)))
        said = f"{names[own]}, {answer}: {near.share[place] * k:.0f} of its {k} neighbours are of its class"
        lines.append(pictures.row(shown, said))
    display.pictures(
        lines,
        f"Test images at {_percent(gallery.NEIGHBOURS)} % of the share of right neighbours, worst first, each with the "
        "student's five nearest training images; those of its class are framed",
    )


def _of_bank(experiment: Experiment, row: int) -> tuple[Image.Image, str]:
    """An image of the neighbours' bank, and its class."""
    for split in experiment.exam.bank:
        if row < len(experiment.splits[split]):
            return _image(experiment, row, split), _described(experiment, row, split)
        row -= len(experiment.splits[split])
    raise IndexError(f"The bank has no image {row}.")


# ---------------------------------------------------------------- where it looks


def attention(experiment: Experiment, count: int = 6) -> None:
    """Teacher's and student's attention over the first test images."""
    split = experiment.exam.scored
    facts = split.store.manifest["facts"]
    images = [experiment.data[experiment.exam.on].images[row] for row in split.store.rows[:count]]
    maps = {"teacher": split.store["image_attention"][:count].astype("float32")}
    seen = embed(experiment.trained.student, split, experiment.config.device, limit=count)
    if "image_attention" in seen:
        maps["student"] = seen["image_attention"][:count].numpy()
    lines = pictures.looks(images, maps, tuple(facts["grid"]), facts["centre_crop"])
    display.pictures(lines, f"Where {' and '.join(maps)} look in the first {len(images)} test images")
    if "student" not in maps:
        reads = {"features": "reads the teacher's pooled feature", "pixels": "is a convolutional network"}
        why = reads.get(experiment.trained.student.reads, "gives none")
        display.words(f"The {experiment.config.method} student has no attention map: it {why}.")
