"""Writes the model card of an exported student; all its numbers come from the result."""

import json

from kdlib.config import RunConfig
from kdlib.evaluate.exposure import LEVELS
from kdlib.finished import Finished
from kdlib.result import train_images
from kdlib.teachers import STANDIN, TEACHERS
from kdlib.trainer import cooldown_epochs

# What the published checkpoints and data sets ask for, as their pages said in November 2026.
LICENCES = {
    "facebook/dino-vitb16": "Apache-2.0",
    "microsoft/beit-base-patch16-224-pt22k-ft22k": "Apache-2.0",
    "openai/clip-vit-base-patch32": "MIT; its card leaves deployed use out of its scope",
    "Salesforce/blip-itm-base-coco": "BSD-3-Clause",
    STANDIN: "MIT, trained by kdlib on its own drawings",
    "tinyimagenet": "Tiny ImageNet, a part of ImageNet: for non-commercial research and education",
    "coco": "MS COCO: annotations under CC BY 4.0, each image under its own Flickr licence",
    "shapes": "drawn by kdlib, MIT",
}
UNKNOWN = "not known to kdlib; ask whoever published it"

USE = """
```python
from kdlib.export import Standalone

student = Standalone.from_pretrained("{folder}")
images = student.encode_images(pil_images)  # (B, {width}), of length 1
{texts}```

Without kdlib and torch: `image.onnx`{and_text} in onnxruntime. The graph takes uint8 pixels (B, 3, {size}, {size}), red
green blue, as Pillow makes them of an upright image: `ImageOps.fit(image.convert("RGB"), ({size}, {size}),
Image.Resampling.BICUBIC)`; mean and deviation are in the graph.{ids} Embeddings have length 1: a product is a cosine.
"""


def card(run: Finished, record: dict) -> str:
    """The text of README.md, with the header that the model hub reads."""
    config, result = run.config, run.result
    teacher, text = result["teacher"], "text.onnx" in record["files"]
    source = teacher["source"] or TEACHERS[config.teacher].DEFAULT
    cooling = cooldown_epochs(config)
    trained = f"{config.epochs} epochs" + (f" and a cooldown of {cooling}" if cooling else "")
    header = {
        "library_name": "kdlib",
        "license": "other",
        "pipeline_tag": "zero-shot-image-classification" if text else "image-feature-extraction",
        "tags": ["knowledge-distillation", "onnx", config.teacher, config.method],
    }
    use = USE.format(
        folder="path/to/this/folder",
        width=config.width,
        size=config.image_size,
        texts=f"texts = student.encode_texts(texts)  # (B, {config.width})\n" if text else "",
        and_text=" and `text.onnx`" if text else "",
        ids="\n`text.onnx` takes `input_ids` and `attention_mask` as `tokenizer.json` pads them." if text else "",
    )
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in header.items()),
        "---",
        f"# {config.method}, distilled from {config.teacher} ({source}) on {config.dataset}",
        "",
        f"{trained}, {' + '.join(result['objective'])}, seed {config.seed}; scored on {config.score_on} "
        f"({result['data'][config.score_on]['images']} images). 95 % intervals are over those images.",
        "",
        "## Scores",
        "",
        *_scores(run, record),
        "",
        *(f"{_comparison(entry)}" for entry in record["comparisons"]),
        "",
        "## Size and speed",
        "",
        f"onnxruntime {record['versions']['onnxruntime']} on {record['hardware']['name']}, from uint8 pixels or ids to "
        "embeddings; median milliseconds. MACs are multiply-accumulates of one input. The teacher was exported by the "
        "same code.",
        "",
        *_costs(record),
        "",
        "## Use",
        use,
        "## Where it comes from",
        "",
        f"- Teacher: {source}, revision {teacher['revision']}. Licence: {LICENCES.get(source, UNKNOWN)}.",
        f"- Data: {_data(config)}. Training images: {train_images(result)}.",
        f"- What teacher or student had seen of the scored images ({' < '.join(LEVELS)}): "
        f"**{result['exposure']['level']}**, {result['exposure']['why']}.",
        f"- Made by kdlib {result['versions']['kdlib']}, commit {result['versions']['commit'] or 'unknown'}, "
        f"experiment {result['keys']['experiment'][:12]}; exported {record['finished']}.",
        "- A student carries what its teacher carries: its licence may bind it, and so do its biases.",
        "",
    ]
    return "\n".join(lines)


def _data(config: RunConfig) -> str:
    """The data and its terms, as far as kdlib knows them: a folder may hold other data in the same layout."""
    if config.data_root == "shapes":
        return LICENCES["shapes"]
    known = LICENCES.get(config.dataset, UNKNOWN)
    return f"a folder in the layout of {config.dataset}; the published set's terms: {known}"


def _scores(run: Finished, record: dict) -> list[str]:
    """A table of the headline and other common scores: one row for the teacher, the student and its files each."""
    known = record["rows"]["student"]["scores"]
    names = [run.headline, *(name for name in ("i2t_r@1", "t2i_r@1", "linear_top1") if name in known)]
    rows = {"teacher": [(run.score("teacher", name), *run.interval("teacher", name)) for name in names]}
    for row, entry in record["rows"].items():
        label = f"{row} ({entry['mb']:.2f} MB)"
        rows[label] = [(entry["scores"][name], *entry["intervals"][name]) for name in names]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for label, cells in rows.items():
        words = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in cells]
        lines.append(f"| {label} | {' | '.join(words)} |")
    return lines


def _comparison(entry: dict) -> str:
    low, high = entry["interval"]
    return (
        f"- {entry['row']} against {entry['against']}, paired: {entry['difference']:+.4f} [{low:+.4f}, {high:+.4f}], "
        f"{entry['verdict']} (p {entry['p']:.3f})."
    )


def _costs(record: dict) -> list[str]:
    """A line a file: MB, millions of multiply-accumulates, milliseconds."""
    kinds = [(batch, threads) for batch in ("batch_1", "batch_32") for threads in ("one_thread", "all_threads")]
    titles = [", ".join(kind).replace("_", " ") for kind in kinds]
    lines = [f"| | side | MB | million MACs | {' | '.join(titles)} |", f"|---|{'---|' * (3 + len(kinds))}"]
    for row, sides in record["cost"].items():
        for side, cost in sides.items():
            times = [f"{cost[threads][batch]['p50_ms']:.2f}" for batch, threads in kinds]
            lines.append(
                f"| {row} | {side} | {cost['bytes'] / 2**20:.2f} | {cost['macs'] / 1e6:.1f} | {' | '.join(times)} |"
            )
    return lines
