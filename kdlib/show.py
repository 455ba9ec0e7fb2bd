"""What a notebook shows: figures with a description, tables with a caption, notices that cannot be overlooked."""

import base64
import html
import io

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, display
from PIL import ImageOps

from kdlib import plots
from kdlib.cell import Cell


def figure(drawn, alt: str) -> None:
    """Show a figure as a PNG with alternative text, and close it."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor="white")
    plt.close(drawn)
    data = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": alt}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def table(frame: pd.DataFrame, caption: str, index: bool = True, digits: int = 3) -> None:
    """Show a table with its caption."""
    markup = frame.to_html(index=index, border=0, float_format=lambda value: f"{value:.{digits}f}", na_rep="–")
    head = markup.index(">") + 1
    display(HTML(f"{markup[:head]}<caption>{html.escape(caption)}</caption>{markup[head:]}"))


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
    rows = {
        "teacher": f"{facts['family']}, {facts['source']} (revision {facts['revision']})",
        "data": ", ".join(f"{name} {len(split)}" for name, split in cell.splits.items()) + " images",
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
    figure(plots.samples(cell.data["test"]), "The first test images, each with its class or first caption.")


def curves(history: list[dict]) -> None:
    """Loss by epoch."""
    last = history[-1]
    alt = f"Loss by epoch, {history[0]['loss']:.3f} in epoch 1 and {last['loss']:.3f} in epoch {last['epoch']}."
    figure(plots.curves(history), alt)


def result(record: dict) -> None:
    """Scores of teacher, untrained and trained student, and what the student costs."""
    scores = pd.DataFrame(record["scores"]).T
    chosen = [record["headline"], *[name for name in scores if name != record["headline"]]]
    names = {"student": f"student, {record['config']['epochs']} epochs", "untrained": "student, untrained"}
    table(
        scores[chosen].rename(index=names).T,
        "Scores on the test split, shares in [0, 1] (median ranks: places)",
    )
    trained = record["scores"]["student"][record["headline"]]
    values = ", ".join(f"{who} {row[record['headline']]:.3f}" for who, row in record["scores"].items())
    figure(plots.scores(record), f"{plots.score_name(record['headline'])}: {values}.")
    if not record["headline"].startswith("mean"):
        notice(
            "in_batch@B is degenerate here: each image looks for itself among the images of its batch, so every "
            "encoder that does not collapse scores 1, an untrained one too. The study's 1.00 on this data is this."
        )
    if trained <= record["scores"]["untrained"][record["headline"]]:
        notice("This student is not better than the same student untrained.")


def cost(record: dict) -> None:
    """Sizes and times."""
    size, time = record["size"], record["time"]
    rows = [
        ("student, all that was trained", size["student_mb"], "MB"),
        ("student, image side only (the study's way for pixel students)", size["image_mb"], "MB"),
        ("deployed, with the teacher's backbone where inference needs it", size["deployed_mb"], "MB"),
        ("an epoch, teacher cached (median without the first)", time["seconds_per_epoch"], "s"),
        ("building the feature stores, once for all methods", record["teacher"]["store_seconds"], "s"),
        ("pixels to embedding, 1 image", time["batch_1"]["from_pixels_ms"], "ms"),
        ("pixels to embedding, 32 images", time["batch_32"]["from_pixels_ms"], "ms"),
    ]
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

    split = cell.splits["test"]
    facts = split.store.manifest["facts"]
    images = [cell.data["test"].images[row] for row in split.store.rows[:count]]
    if facts["centre_crop"]:  # the teacher does not see the borders, so neither does the reader
        images = [ImageOps.fit(image, (min(image.size),) * 2) for image in images]
    teacher = split.store["image_attention"][:count].astype("float32")
    seen = embed(cell.trained.student, split, cell.config.device)
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
