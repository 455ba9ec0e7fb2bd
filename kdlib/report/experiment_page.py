"""The parts of an experiment's notebook, one function each; those of other files are named here for the notebook."""

import html
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import sources, students
from kdlib.config import RunConfig
from kdlib.distiller import Distiller
from kdlib.evaluate.cost import backbones
from kdlib.experiment import Experiment
from kdlib.features.loader import Reader
from kdlib.machine import choose, hardware, versions
from kdlib.report import anatomy, display, experiment_figures
from kdlib.report.cautions import given_by_hand
from kdlib.report.display import figure, markup, notice, table, words
from kdlib.report.examples import attention, examples, samples
from kdlib.report.experiment_result import result, score_by_epochs
from kdlib.report.layers_and_losses import losses, module
from kdlib.report.scores import line_name
from kdlib.report.style import dataset_name, teacher_name
from kdlib.result import exposure_of

__all__ = [
    "attention", "changes", "cost", "curves", "examples", "losses", "module", "reproduce", "result", "samples",
    "score_by_epochs", "setup", "student",
]  # fmt: skip

COPIES = 5  # that a notice names


# ---------------------------------------------------------------- what was run


def setup(experiment: Experiment) -> None:
    """Begin the page: teacher, data and configuration, and what a reader must know before any number."""
    config, facts = experiment.config, experiment.splits["fit"].store.manifest["facts"]
    display.begin(facts=said_of(experiment))
    if facts["source"] == "stand-in":
        notice(
            f"Stand-in teacher: not the published {facts['family'].upper()} checkpoint, but a small model of the same "
            "class that this project trained on drawn shapes. Its numbers say nothing about the real one."
        )
    if by_hand := given_by_hand(config.teacher, facts["source"]):
        notice(by_hand)
    if config.data_root == "shapes":
        notice("Embedded data: drawn shapes in the data set's official layout, not the data set itself.")
    if facts["untrained"]:
        notice(f"Untrained teacher: {len(facts['untrained'])} weights that it uses were not in its checkpoint.")
    skipped = sum(len(split.store.skipped) for split in experiment.splits.values())
    if skipped:
        notice(f"{skipped} unreadable images were left out.")
    copies = [f"{name} (a copy of {twin})" for data in experiment.data.values() for name, twin in data.left_out]
    if copies:
        more = ", ..." if len(copies) > COPIES else ""
        notice(f"{len(copies)} images are also in another split and left training: {', '.join(copies[:COPIES])}{more}.")
    seen = exposure_of(config)
    badge = f'<span class="badge {seen["level"]}">exposure: {seen["level"]}</span>'
    markup(f"<p>{badge} What teacher and student saw of the test images before: {html.escape(seen['why'])}.</p>")
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
    table(pd.DataFrame(rows.items(), columns=["what", "value"]), "What is run", False, kind="prose")
    _parameters(config)


def said_of(experiment: Experiment) -> str:
    """What every caption of the page ends with: student, teacher, data, and the number of scored images."""
    config, facts = experiment.config, experiment.splits["fit"].store.manifest["facts"]
    data = f"{dataset_name(config.dataset)}{' (drawn shapes)' if config.data_root == 'shapes' else ''}"
    standin = " (stand-in)" if facts["source"] == "stand-in" else ""
    return (
        f"{line_name(config.method, config.variant, config.epochs)}, seed {config.seed}, of "
        f"{teacher_name(config.teacher)}{standin} on {data}; {len(experiment.exam.scored):,} {config.score_on} images. "
        "[ ]: 95 % interval over them."
    )


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
        table(changed, "Parameters changed from the default", False, kind="prose")
    with display.fold(f"all {len(frame)} parameters"):
        table(frame, "All parameters", False, kind="prose")


def changes(config: RunConfig) -> dict:
    """The parameters that are not at their default; teacher and data set have none."""
    fields = RunConfig.model_fields
    return {
        name: value
        for name, value in config.model_dump().items()
        if not fields[name].is_required() and value != fields[name].default
    }


# ---------------------------------------------------------------- the student and its training


def student(experiment: Experiment, distiller: Distiller | None = None) -> None:
    """The student as a diagram: its parts in the order in which they run, and the parts of the teacher it needs."""
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
    method = experiment.config.method
    caption = f"The {method} student, as it is built: what it reads first, its embedding last"
    figure(lambda narrow: experiment_figures.diagram(lanes, method, narrow), " ".join(said), caption)
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
    figure(lambda narrow: experiment_figures.curves(history, narrow), alt, "Loss and speed of training by epoch")


# ---------------------------------------------------------------- cost, how to reproduce it


def cost(record: dict) -> None:
    """Sizes and times."""
    size, time = record["size"], record["time"]
    rows = [
        ("student, all that was trained", size["student_mb"], "MB"),
        ("student, image side only (the paper's way for pixel students)", size["image_mb"], "MB"),
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


def reproduce(experiment: Experiment, record: dict) -> None:
    """How to get these numbers again: the command, the commit, and the keys of what went in."""
    config = experiment.config
    words("From a checkout of this commit, with these versions:")
    markup(f"<pre><code>{html.escape(command(config))}</code></pre>")
    rows = {"commit": record["versions"]["commit"] or "not in a git checkout"}
    rows |= {f"key: {name}": key for name, key in record["keys"].items()}
    rows |= {f"SHA-256 of {name}": value for name, value in record["checkpoint"].items()}
    rows |= {"run": "/".join(experiment.run.path.parts[-4:]), "finished": record["finished"]}
    table(
        pd.DataFrame(rows.items(), columns=["what", "value"]), "What these numbers were made from", False, kind="prose"
    )


def command(config: RunConfig) -> str:
    """The papermill command of an experiment, with the parameters that are not at their default."""
    given = [  # -r takes a text as it is, whatever it looks like
        f"{'-r' if isinstance(value, str) else '-p'} {name} {shlex.quote(str(value))}"
        for name, value in changes(config).items()
    ]
    return " \\\n  ".join([f"papermill notebooks/{config.teacher}_{config.dataset}.ipynb out.ipynb", *given])
