"""What a notebook shows: figures with a description, tables with a caption, notices that cannot be overlooked."""

import base64
import html
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from PIL import ImageOps

from kdlib import inputs, plots
from kdlib.cell import Cell
from kdlib.teachers.exposure import exposure
from kdlib.uncertainty import interval

INTERVAL = re.compile(r"\[([^\s\[\],]+), ([^\s\[\],]+)\]")  # is not broken across lines


def figure(drawn, alt: str) -> None:
    """Show a figure as a PNG with alternative text, and close it."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor="white")
    plt.close(drawn)
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def table(
    frame: pd.DataFrame, caption: str, index: bool = True, digits: int = 3, folded: str = "", prose: bool = False
) -> None:
    """Show a table with its caption.

    Behind a line ``folded`` that opens it, where that is given; ``prose`` sets words instead of numbers.
    """
    markup = frame.to_html(
        index=index,
        border=0,
        classes="prose" if prose else None,
        float_format=lambda value: f"{value:.{digits}f}",
        na_rep="–",
    )
    markup = INTERVAL.sub("[\\1,&nbsp;\\2]", markup).replace(" ± ", "&nbsp;±&nbsp;")
    head = markup.index(">") + 1
    markup = f"{markup[:head]}<caption>{html.escape(caption)}</caption>{markup[head:]}"
    display(HTML(f"<details><summary>{html.escape(folded)}</summary>{markup}</details>" if folded else markup))


def words(text: str) -> None:
    """Show a paragraph."""
    display(HTML(f"<p>{html.escape(text)}</p>"))


def notice(text: str) -> None:
    """Show a warning that stays in the report."""
    display(HTML(f'<p class="notice">{html.escape(text)}</p>'))


def setup(cell: Cell) -> None:
    """What is run: teacher, data and configuration, and what a reader must know before any number."""
    facts = cell.splits["fit"].store.manifest["facts"]
    if facts["source"] == "stand-in":
        notice(
            f"Stand-in teacher: not the published {facts['family'].upper()} checkpoint, but a small model of the same "
            "class that this project trained on drawn shapes. Its numbers say nothing about the real one."
        )
    if cell.config.data_root == "shapes":
        notice("Embedded data: drawn shapes in the data set's official layout, not the data set itself.")
    if facts["untrained"]:
        notice(f"Untrained teacher: {len(facts['untrained'])} weights that it uses were not in its checkpoint.")
    skipped = sum(len(split.store.skipped) for split in cell.splits.values())
    if skipped:
        notice(f"{skipped} unreadable images were left out.")
    seen = exposure(inputs.source(cell.config), cell.config.dataset, cell.config.data_root, cell.config.pretrained)
    rows = {
        "teacher": f"{facts['family']}, {facts['source']} (revision {facts['revision']})",
        "exposure to the test images": f"{seen['level']}: {seen['why']}",
        "data": ", ".join(f"{name} {len(split)}" for name, split in cell.splits.items()) + " images",
        "losses": ", ".join(cell.objective),
        "run": "/".join(cell.run.path.parts[-4:]),
        "train key": cell.keys["train"][:16],
    }
    table(pd.DataFrame(rows.items(), columns=["", " "]), "What is run", index=False)
    values = cell.config.model_dump()
    frame = pd.DataFrame(
        [(name, str(value), cell.config.__class__.model_fields[name].description) for name, value in values.items()],
        columns=["parameter", "value", "meaning"],
    )
    display(HTML(f"<details><summary>all parameters</summary>{frame.to_html(index=False, border=0)}</details>"))


def samples(cell: Cell) -> None:
    """The first test images with their class or caption."""
    figure(
        plots.samples(cell.data[cell.exam.on]),
        f"The first images of {cell.exam.on}, each with its class or first caption.",
    )


def curves(history: list[dict]) -> None:
    """Loss by epoch."""
    last = history[-1]
    alt = f"Loss by epoch, {history[0]['loss']:.3f} in epoch 1 and {last['loss']:.3f} in epoch {last['epoch']}."
    figure(plots.curves(history), alt)


def result(cell: Cell, record: dict) -> None:
    """Scores of the controls and of the student, with the student's intervals; tripped wires stop the table."""
    tripped = [wire for wire in record["wires"] if not wire["passed"]]
    if tripped:
        for wire in tripped:
            notice(f"Tripped: {wire['wire']} ({wire['found']}). The scores are not shown.")
        return
    scores = pd.DataFrame(record["scores"]).T
    chosen = [record["headline"], *[name for name in scores if name != record["headline"]]]
    epochs = record["config"]["epochs"]
    names = {"student": f"student, {epochs} epochs", "untrained": "student, untrained", "pca": "PCA"}
    order = ["student", "untrained", *(row for row in scores.index if row not in ("student", "untrained"))]
    frame = scores.loc[order, chosen].rename(index=names).T
    with np.load(cell.run.scores_path(epochs)) as arrays:
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
    trained = record["scores"]["student"][record["headline"]]
    values = ", ".join(f"{who} {row[record['headline']]:.3f}" for who, row in record["scores"].items())
    figure(plots.scores(record), f"{plots.score_name(record['headline'])}: {values}.")
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
        if trained <= record["scores"][control][record["headline"]]:
            notice(f"This student is not better than {names[control]}.")
    passed = pd.DataFrame(record["wires"])[["wire", "found"]]
    display(
        HTML(
            f"<details><summary>{len(passed)} trip-wires, none tripped</summary>"
            f"{passed.to_html(index=False, border=0)}</details>"
        )
    )


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
    where = f"{hardware['name']}, {hardware['device']}, {hardware['threads']} threads"
    table(
        pd.DataFrame(rows, columns=["what", "value", "unit"]),
        f"Size and speed on {where}",
        index=False,
        digits=2,
    )


def attention(cell: Cell, count: int = 6) -> None:
    """Teacher's and student's attention over the first test images."""
    from kdlib.evaluate.embed import embed

    split = cell.exam.scored
    facts = split.store.manifest["facts"]
    images = [cell.data[cell.exam.on].images[row] for row in split.store.rows[:count]]
    if facts["centre_crop"]:  # the teacher does not see the borders, so neither does the reader
        images = [ImageOps.fit(image, (min(image.size),) * 2) for image in images]
    teacher = split.store["image_attention"][:count].astype("float32")
    seen = embed(cell.trained.student, split, cell.config.device, limit=count)
    student = seen["image_attention"][:count].numpy() if "image_attention" in seen else None
    grid = tuple(facts["grid"])
    who = "teacher (middle row) and student (bottom row)" if student is not None else "teacher (bottom row)"
    figure(
        plots.attention(images, teacher, student, grid),
        f"Where {who} look in the first {count} test images.",
    )
    if student is None:
        reads = {"features": "reads the teacher's pooled feature", "pixels": "is a convolutional network"}
        print(f"The {cell.config.method} student {reads[cell.trained.student.reads]} and has no attention map.")
