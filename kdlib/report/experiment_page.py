"""What an experiment's notebook shows, in the order of its story."""

import html
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, display
from PIL import Image, ImageOps

from kdlib import sources, students, teachers
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.evaluate.cost import backbones
from kdlib.evaluate.exposure import exposure
from kdlib.evaluate.uncertainty import interval
from kdlib.experiment import Experiment
from kdlib.features.loader import Reader
from kdlib.files import read_json
from kdlib.finished import Finished
from kdlib.machine import choose, hardware, versions
from kdlib.report import anatomy, experiment_figures, gallery
from kdlib.report.display import figure, notice, table, words
from kdlib.report.science import losses, module
from kdlib.report.style import score_name

__all__ = [
    "attention", "changes", "cost", "curves", "examples", "given_by_hand", "losses", "module", "reproduce", "result",
    "samples", "score_by_epochs", "sentence", "setup", "student",
]  # fmt: skip

SHORT = {"mean_recall": "Mean recall", "knn@20_top1": "k-NN top-1"}
THUMBNAIL = 128  # pixels a side: as large as a picture is drawn
HARDEST = 8


# ---------------------------------------------------------------- what was run


def given_by_hand(teacher: str, source: str) -> None:
    """Notice a checkpoint that is neither the family's published one nor the stand-in, which has its own notice.

    A local copy of the published one is not told from others, so that a reader must look at its name.
    """
    family = teachers.TEACHERS.get(teacher)
    if family is not None and source not in (family.DEFAULT, teachers.STANDIN):
        notice(f"Checkpoint given by hand, in the place of the published {teacher.upper()}: {Path(source).name}.")


def setup(experiment: Experiment) -> None:
    """What is run: teacher, data and configuration, and what a reader must know before any number."""
    config, facts = experiment.config, experiment.splits["fit"].store.manifest["facts"]
    if facts["source"] == "stand-in":
        notice(
            f"Stand-in teacher: not the published {facts['family'].upper()} checkpoint, but a small model of the same "
            "class that this project trained on drawn shapes. Its numbers say nothing about the real one."
        )
    given_by_hand(config.teacher, facts["source"])
    if config.data_root == "shapes":
        notice("Embedded data: drawn shapes in the data set's official layout, not the data set itself.")
    if facts["untrained"]:
        notice(f"Untrained teacher: {len(facts['untrained'])} weights that it uses were not in its checkpoint.")
    skipped = sum(len(split.store.skipped) for split in experiment.splits.values())
    if skipped:
        notice(f"{skipped} unreadable images were left out.")
    pretrained = config.pretrained and students.class_of(config.method).reads == "pixels"
    seen = exposure(sources.source(config), config.dataset, config.data_root, pretrained)
    badge = f'<span class="badge {seen["level"]}">exposure: {seen["level"]}</span>'
    display(HTML(f"<p>{badge} What teacher and student saw of the test images before: {html.escape(seen['why'])}.</p>"))
    machine, made = hardware(choose(config.device)), versions()
    untrained = f"{len(facts['untrained'])} of the weights that it uses were not in its checkpoint"
    data = "drawn shapes" if config.data_root == "shapes" else Path(config.data_root).name
    rows = {
        "teacher": f"{facts['family']}, {facts['source']} (revision {facts['revision']})",
        "audit of the teacher": untrained if facts["untrained"] else "no untrained weights are used",
        "data": f"{config.dataset} ({data}): "
        + ", ".join(f"{name} {len(split):,}" for name, split in experiment.splits.items())
        + f" images, scored on {config.score_on}",
        "student": config.folder,
        "losses": ", ".join(name.replace("_", " ") for name in experiment.objective),
        "hardware": f"{machine['name']}, {machine['device']}, {machine['threads']} of {machine['cores']} threads",
        "versions": ", ".join(f"{name} {number}" for name, number in made.items() if name != "commit"),
        "commit": made["commit"] or "not in a git checkout",
    }
    table(pd.DataFrame(rows.items(), columns=["what", "value"]), "What is run", index=False, prose=True)
    _parameters(config)


def _parameters(config: RunConfig) -> None:
    fields = RunConfig.model_fields
    lines = [
        (name, str(value), "" if fields[name].is_required() else str(fields[name].default), fields[name].description)
        for name, value in config.model_dump().items()
    ]
    frame = pd.DataFrame(lines, columns=["parameter", "value", "default", "meaning"])
    changed = frame[frame.parameter.isin(changes(config))]
    if changed.empty:
        words("All parameters have their default.")
    else:
        table(changed, "Parameters changed from the default", index=False, prose=True)
    table(frame, "All parameters", index=False, folded=f"all {len(frame)} parameters", prose=True)


def changes(config: RunConfig) -> dict:
    """The parameters that are not at their default; a notebook's teacher and data set are no parameters."""
    fields = RunConfig.model_fields
    return {
        name: value
        for name, value in config.model_dump().items()
        if not fields[name].is_required() and value != fields[name].default
    }


def samples(experiment: Experiment, count: int = 6) -> None:
    """The first test images with their class or caption."""
    rows = range(min(count, len(experiment.exam.scored)))
    figure(
        experiment_figures.samples(
            [_image(experiment, row) for row in rows], [_described(experiment, row) for row in rows]
        ),
        f"The first images of {experiment.exam.on}, each with its class or first caption.",
        photographs=True,
    )


def _image(experiment: Experiment, row: int, split: str = "") -> Image.Image:
    """Image ``row`` of a split's store, the scored one if none is named, small."""
    split = split or experiment.exam.on
    image = experiment.data[split].images.at_least(int(experiment.splits[split].store.rows[row]), THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _described(experiment: Experiment, row: int, split: str = "") -> str:
    split = split or experiment.exam.on
    data, place = experiment.data[split], int(experiment.splits[split].store.rows[row])
    return data.captions[place][0] if data.captions is not None else data.class_names[data.labels[place]]


# ---------------------------------------------------------------- the student and its training


def student(experiment: Experiment, distiller: Distiller | None = None) -> None:
    """The student as a diagram: its parts in the order in which they run, and what of the teacher it needs."""
    built, split = (distiller or experiment.distiller()).student.eval(), experiment.exam.scored
    reader, rows = Reader(split, built.reads, built.text_reads), np.arange(1)
    batches = {"image": reader.images(rows)} | ({"text": reader.texts(rows)} if built.spec.text else {})
    needed = backbones(sources.backbone_cost(experiment.config), batches, built)
    lanes, said = [], []
    for side, batch in batches.items():
        parts, size = anatomy.parts(built, side, batch)
        backbone = f"teacher's {side} backbone\n{needed[side]['mb']:.2f} MB" if side in needed else ""
        lanes.append(
            experiment_figures.Lane(side, backbone, anatomy.reads(built, side, batch), parts, f"embedding\n{size}")
        )
        chain = ", ".join(f"{part.name} ({part.kind}; {part.parameters:,} parameters)" for part in parts)
        below = f"over the teacher's backbone of {needed[side]['mb']:.2f} MB" if side in needed else "with no teacher"
        said.append(f"{side.capitalize()} side, {below}: {chain}, to an embedding of {size}.")
    figure(experiment_figures.diagram(lanes, experiment.config.method), " ".join(said))
    total = sum(parameter.numel() for parameter in built.parameters())
    need = "At inference it needs nothing of the teacher."
    if needed:
        need = "Grey: what of the teacher must run below it at inference, with its size."
        need += "" if len(needed) == len(batches) else " The side without a grey box needs nothing of the teacher."
    words(
        f"The {experiment.config.method} student has {total:,} parameters, {students.megabytes(built):.2f} MB. {need}"
    )


def curves(history: list[dict]) -> None:
    """Loss by epoch."""
    last = history[-1]
    alt = f"Loss by epoch, {history[0]['loss']:.3f} in epoch 1 and {last['loss']:.3f} in epoch {last['epoch']}."
    figure(experiment_figures.curves(history), alt)


def score_by_epochs(experiment: Experiment, record: dict) -> None:
    """The headline score at every number of epochs that this training was evaluated at."""
    if _tripped(record):
        return
    found = {int(path.stem[-4:]): read_json(path) for path in sorted(experiment.run.path.glob("result-????.json"))}
    points = []
    for epochs, other in found.items():
        same = other and all(other["keys"][name] == record["keys"][name] for name in ("train", "exam"))
        if same and not _tripped(other):
            score = other["scores"]["student"][record["headline"]]
            points.append(experiment_figures.Point(epochs, score, *_interval(experiment, other)))
    lines = {"teacher": "teacher", "PCA": "pca", "untrained": "untrained"}
    controls = {name: record["scores"][who][record["headline"]] for name, who in lines.items()}
    listed = ", ".join(f"{point.score:.3f} after {point.epochs}" for point in points)
    figure(
        experiment_figures.score_by_epochs(points, controls, record["headline"], record["config"]["method"]),
        f"{score_name(record['headline'])} by epochs: {listed}. Lines: "
        + ", ".join(f"{name} {value:.3f}" for name, value in controls.items()),
    )


# ---------------------------------------------------------------- the result


def _tripped(record: dict) -> list[dict]:
    return [wire for wire in record["wires"] if not wire["passed"]]


def _interval(experiment: Experiment, record: dict, score: str = "") -> tuple[float, float]:
    return Finished(experiment.run, record).interval("student", score or record["headline"])


def sentence(record: dict, low: float, high: float) -> str:
    """The result in one sentence; ``low`` and ``high`` are the interval of the student's headline score."""
    score = {who: row[record["headline"]] for who, row in record["scores"].items()}
    split, size = record["config"]["score_on"], record["size"]
    kept = f"{100 * score['student'] / score['teacher']:.0f} % of " if score["teacher"] else ""
    name = SHORT.get(record["headline"], record["headline"])
    return (
        f"{name} {score['student']:.3f} [{low:.3f}, {high:.3f}] on {record['data'][split]['images']:,} {split} images: "
        f"{kept}the teacher's {score['teacher']:.3f}; untrained {score['untrained']:.3f}, PCA {score['pca']:.3f}; "
        f"{size['student_mb']:.2f} MB alone, {size['deployed_mb']:.2f} MB deployed."
    )


def result(experiment: Experiment, record: dict) -> None:
    """Scores of the controls and of the student, with the student's intervals; tripped wires stop the table."""
    if tripped := _tripped(record):
        for wire in tripped:
            notice(f"Tripped: {wire['wire']} ({wire['found']}). The scores are not shown.")
        return
    if record["edited"]:
        notice(f"Edited by hand, so that this is no result of the configuration: {'; '.join(record['edited'])}.")
    headline, method = record["headline"], record["config"]["method"]
    low, high = _interval(experiment, record)
    display(HTML(f'<p class="headline"><strong>{html.escape(sentence(record, low, high))}</strong></p>'))
    standing = {who: row[headline] for who, row in record["scores"].items()}
    values = ", ".join(f"{who} {value:.3f}" for who, value in standing.items())
    drawn = experiment_figures.standing(standing, low, high, headline, method)
    figure(drawn, f"{score_name(headline)}: {values}. The student's 95 % interval is {low:.3f} to {high:.3f}.")
    scores = pd.DataFrame(record["scores"]).T
    chosen = [headline, *[name for name in scores if name != headline]]
    epochs = record["config"]["epochs"]
    names = {"student": f"student, {epochs} epochs", "untrained": "student, untrained", "pca": "PCA"}
    order = ["student", "untrained", *(row for row in scores.index if row not in ("student", "untrained"))]
    frame = scores.loc[order, chosen].rename(index=names).T
    with np.load(experiment.run.scores_path(epochs)) as arrays:
        found = {name: arrays[key] for name in chosen if (key := f"student/replicates/{name}") in arrays}
    bounds = {name: interval(replicates) for name, replicates in found.items()}
    frame.insert(1, "95 % interval", [f"[{low:.3f}, {high:.3f}]" if low == low else "" for low, high in
                                      (bounds.get(name, (np.nan, np.nan)) for name in chosen)])  # fmt: skip
    split = record["config"]["score_on"]
    table(
        frame,
        f"Scores on {split}: shares in [0, 1], ranks in places, similarity_kl in nats. The interval is the student's, "
        "over the images",
    )
    if record["degenerate"]:
        notice(
            f"Degenerate, since the untrained student has more than 0.99 of it: {', '.join(record['degenerate'])}. "
            + (
                "Each image looks for itself among the images of its batch; the study's 1.00 on this data is this."
                if not record["pairing"]
                else ""
            )
        )
    for control in ("untrained", "pca"):
        if standing["student"] <= standing[control]:
            notice(f"This student is not better than {names[control]}.")
    wires = pd.DataFrame(record["wires"])[["wire", "found"]]
    table(wires, "Trip-wires", index=False, folded=f"{len(wires)} trip-wires, none tripped", prose=True)


# ---------------------------------------------------------------- right and wrong


def examples(experiment: Experiment, record: dict) -> None:
    """What the student gets right and wrong, chosen by :mod:`kdlib.report.gallery`'s rules."""
    if _tripped(record):
        notice("Not shown, since a trip-wire was tripped.")
        return
    with np.load(experiment.run.embeddings_path(experiment.config.epochs)) as arrays:
        wanted = {"image", "text", "owner", "labels"}
        kept = {name: arrays[name] for name in arrays.files if name.partition("/")[2] in wanted}
    (_retrieved if experiment.exam.has_text else _classified)(experiment, Finished(experiment.run, record), kept)


def _retrieved(experiment: Experiment, run: Finished, arrays: dict[str, np.ndarray]) -> None:
    on = experiment.exam.on
    embedded = {side: torch.from_numpy(arrays[f"{on}/{side}"]) for side in ("image", "text")}
    owner = arrays[f"{on}/owner"]
    data, rows = experiment.data[on], experiment.splits[on].store.rows
    texts = [text for row in rows for text in data.captions[row]]
    ranks = {way: [run.queries(who, f"{way}_rank") for who in ("student", "teacher")] for way in ("t2i", "i2t")}
    asked = gallery.captions(embedded, owner, *ranks["t2i"])
    listed = ", ".join(f"{100 * quantile:.0f}" for quantile in gallery.CAPTIONS)
    words(
        f"The rule: all {len(owner):,} captions are sorted by the student's rank of their image, and those at {listed} "
        f"% are shown with the student's five nearest images, the right one framed. Rank 1 is a hit, up to "
        f"{gallery.NEAR} a near miss, more a failure."
    )
    lines = [
        experiment_figures.Row(
            f"“{texts[answer.query]}”\n{_ranks(answer)}",
            [_image(experiment, row) for row in answer.found],
            [str(place + 1) for place in range(len(answer.found))],
            answer.right,
        )
        for answer in asked
    ]
    said = "; ".join(f"“{texts[answer.query]}”: {_ranks(answer)}" for answer in asked)
    figure(
        experiment_figures.rows_of_pictures(lines), f"Captions with the student's five nearest images. {said}.", True
    )
    seen = gallery.images(embedded, owner, *ranks["i2t"])
    listed = " and ".join(f"{100 * quantile:.0f}" for quantile in gallery.IMAGES)
    words(f"The other way: the images at {listed} % of the rank of their best caption, with the nearest captions.")
    figure(
        experiment_figures.captions_of(
            [_image(experiment, answer.query) for answer in seen],
            [_ranks(answer) for answer in seen],
            [list(zip([texts[row] for row in answer.found], answer.right, strict=True)) for answer in seen],
        ),
        "Images with the student's five nearest captions, the right ones marked. "
        + "; ".join(f"{_ranks(answer)}, first “{texts[answer.found[0]]}”" for answer in seen),
        photographs=True,
    )


def _ranks(answer: gallery.Answer) -> str:
    return f"{answer.outcome}: rank {answer.student_rank:g} for the student, {answer.teacher_rank:g} for the teacher"


def _classified(experiment: Experiment, run: Finished, arrays: dict[str, np.ndarray]) -> None:
    on, method = experiment.exam.on, experiment.config.method
    labels, names = arrays[f"{on}/labels"], experiment.data[on].class_names
    credit = {who: run.queries(who, run.headline) for who in ("student", "teacher")}
    classes = gallery.by_class(labels, credit["student"], credit["teacher"], names)
    worst = classes.head(HARDEST)
    words(f"The {len(worst)} of {len(classes)} classes in which the student is right least often:")
    said = "; ".join(f"{row['class']} {row.student:.2f}, teacher {row.teacher:.2f}" for _, row in worst.iterrows())
    figure(experiment_figures.hardest(worst, method), f"Share right in the student's hardest classes. {said}.")
    shown = classes.drop(columns="label")
    table(shown, "k-NN top-1 (k = 20) by class", index=False, folded=f"all {len(classes)} classes", prose=True)
    bank_labels = np.concatenate([arrays[f"{split}/labels"] for split in experiment.exam.bank])
    bank = torch.from_numpy(np.concatenate([arrays[f"{split}/image"] for split in experiment.exam.bank]))
    found = gallery.neighbours(bank, bank_labels, torch.from_numpy(arrays[f"{on}/image"]), labels)
    if confused := gallery.confusions(found, labels):
        of = "" if len(found.rows) == len(labels) else f", counted over {len(found.rows):,} images, evenly spaced"
        words(
            f"The most frequent confusions{of}: the first such test image, then the first two training images of its "
            "class (framed) and of the class it is taken for."
        )
        lines = []
        for pair in confused:
            own, other = (_of_class(bank_labels, label) for label in (pair.label, pair.taken_for))
            lines.append(
                experiment_figures.Row(
                    _confusion(pair, names),
                    [_image(experiment, pair.row), *(_of_bank(experiment, row)[0] for row in (*own, *other))],
                    ["test image", *[names[pair.label]] * len(own), *[names[pair.taken_for]] * len(other)],
                    [False, *[True] * len(own), *[False] * len(other)],
                )
            )
        said = "; ".join(_confusion(pair, names).replace("\n", " ") for pair in confused)
        figure(experiment_figures.rows_of_pictures(lines), f"The most frequent confusions. {said}.", True)
    listed = ", ".join(f"{100 * quantile:.0f}" for quantile in gallery.NEIGHBOURS)
    words(
        f"Test images at {listed} % of the share of right neighbours, worst first, each with the student's five "
        "nearest training images; those of its class are framed."
    )
    lines, said = [], []
    for place in gallery.at_quantiles(found.share, gallery.NEIGHBOURS):
        row, near = int(found.rows[place]), [int(one) for one in found.index[place, :5]]
        own, taken, k = labels[row], found.predicted[place], found.index.shape[1]
        answer = "recognised" if own == taken else f"taken for {names[taken]}"
        title = f"{names[own]}, {answer}\n{found.share[place] * k:.0f} of its {k} neighbours are of its class"
        pictures = [_image(experiment, row), *(_of_bank(experiment, one)[0] for one in near)]
        same = [False, *(bool(bank_labels[one] == labels[row]) for one in near)]
        lines.append(
            experiment_figures.Row(
                title, pictures, ["test image", *(_of_bank(experiment, one)[1] for one in near)], same
            )
        )
        said.append(title.replace("\n", ": "))
    alt = f"Test images with their nearest training images. {'; '.join(said)}."
    figure(experiment_figures.rows_of_pictures(lines), alt, photographs=True)


def _confusion(pair: gallery.Confusion, names) -> str:
    return f"{names[pair.label]} taken for {names[pair.taken_for]}\n{pair.count} of {pair.of} images"


def _of_class(bank_labels: np.ndarray, label: int, count: int = 2) -> list[int]:
    return np.flatnonzero(bank_labels == label)[:count].tolist()


def _of_bank(experiment: Experiment, row: int) -> tuple[Image.Image, str]:
    """An image of the neighbours' bank, and its class."""
    for split in experiment.exam.bank:
        if row < len(experiment.splits[split]):
            return _image(experiment, row, split), _described(experiment, row, split)
        row -= len(experiment.splits[split])
    raise IndexError(f"The bank has no image {row}.")


# ---------------------------------------------------------------- cost, attention, the way back


def cost(record: dict) -> None:
    """Sizes and times."""
    size, time = record["size"], record["time"]
    rows = [
        ("student, all that was trained", size["student_mb"], "MB"),
        ("student, image side only (the study's way for pixel students)", size["image_mb"], "MB"),
        ("deployed, with the teacher's backbone where inference needs it", size["deployed_mb"], "MB"),
        ("its weights on disk", size["safetensors_bytes"] / 2**20, "MB"),
        ("multiply-accumulates, pixels to embedding", size["deployed_image_macs"] / 1e6, "million"),
        ("an epoch, teacher cached (median without the first)", time["seconds_per_epoch"], "s"),
        ("the first epoch", time["first_epoch_seconds"], "s"),
        ("share of the training time spent waiting for data", 100 * time["data_share"], "%"),
        ("building the feature stores, once for all methods", record["teacher"]["store_seconds"], "s"),
        ("from decoded data to this student: store of its training images and all epochs",
         time["minutes_from_nothing"], "min"),
    ]  # fmt: skip
    for side, start in (("image", "pixels"), ("text", "text")):
        for batch in (1, 32):
            if (measured := time.get(f"{side}_batch_{batch}")) is not None:
                words = f"{start} to embedding, {batch} at a time, p10 / p50 / p90 of {measured['calls']} calls"
                values = " / ".join(f"{measured[part]:.2f}" for part in ("p10_ms", "p50_ms", "p90_ms"))
                rows.append((words, values, "ms"))
    hardware = record["hardware"]
    threads = hardware["threads"]
    where = f"{hardware['name']}, {hardware['device']}, {threads} thread{'s' if threads > 1 else ''}"
    table(
        pd.DataFrame(rows, columns=["what", "value", "unit"]),
        f"Size and speed on {where}",
        index=False,
        digits=2,
    )


def attention(experiment: Experiment, count: int = 6) -> None:
    """Teacher's and student's attention over the first test images."""
    from kdlib.evaluate.embed import embed

    split = experiment.exam.scored
    facts = split.store.manifest["facts"]
    images = [experiment.data[experiment.exam.on].images[row] for row in split.store.rows[:count]]
    if facts["centre_crop"]:  # the teacher does not see the borders, so neither does the reader
        images = [ImageOps.fit(image, (min(image.size),) * 2) for image in images]
    teacher = split.store["image_attention"][:count].astype("float32")
    seen = embed(experiment.trained.student, split, experiment.config.device, limit=count)
    student = seen["image_attention"][:count].numpy() if "image_attention" in seen else None
    grid = tuple(facts["grid"])
    who = "teacher (middle row) and student (bottom row)" if student is not None else "teacher (bottom row)"
    figure(
        experiment_figures.attention(images, teacher, student, grid),
        f"Where {who} look in the first {count} test images.",
        photographs=True,
    )
    if student is None:
        reads = {"features": "reads the teacher's pooled feature", "pixels": "is a convolutional network"}
        why = reads[experiment.trained.student.reads]
        words(f"The {experiment.config.method} student has no attention map: it {why}.")


def reproduce(experiment: Experiment, record: dict) -> None:
    """How to get these numbers again: the command, the commit, and the keys of what went in."""
    config = experiment.config
    words("From a checkout of this commit, with these versions:")
    display(HTML(f"<pre><code>{html.escape(command(config))}</code></pre>"))
    rows = {"commit": record["versions"]["commit"] or "not in a git checkout"}
    rows |= {f"key: {name}": key for name, key in record["keys"].items()}
    rows |= {f"SHA-256 of {name}": value for name, value in record["checkpoint"].items()}
    rows |= {"run": "/".join(experiment.run.path.parts[-4:]), "finished": record["finished"]}
    table(pd.DataFrame(rows.items(), columns=["what", "value"]), "What these numbers were made from", False, prose=True)


def command(config: RunConfig) -> str:
    """The papermill command of an experiment, with the parameters that are not at their default."""
    given = [  # -r takes a text as it is, whatever it looks like
        f"{'-r' if isinstance(value, str) else '-p'} {name} {shlex.quote(str(value))}"
        for name, value in changes(config).items()
    ]
    return " \\\n  ".join([f"papermill notebooks/{config.teacher}_{config.dataset}.ipynb out.ipynb", *given])
