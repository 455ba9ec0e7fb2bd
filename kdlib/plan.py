"""What a study would do on this machine: its cells, the stores that they need with their size, what is missing."""

import shutil
from pathlib import Path

import psutil

from kdlib import study, teachers
from kdlib.data.dataset import DataError
from kdlib.inputs import load_data, reads, split_names
from kdlib.runs import runs_root
from kdlib.study import StudyConfig
from kdlib.teachers.teacher import STANDIN

# Images and captions of the full sets, by split, for sizes before the data is there.
FULL = {
    "tinyimagenet": {"fit": (90_000, 0), "dev": (10_000, 0), "test": (10_000, 0)},
    "coco": {"fit": (113_287, 566_435), "dev": (5_000, 25_000), "test": (5_000, 25_000)},
}
# Tokens, width of pooled and token features, and mean tokens of a caption, of the published checkpoints.
PUBLISHED = {"dino": (196, 768, 0), "beit": (196, 768, 0), "clip": (49, 512, 13), "blip": (576, 256, 13)}
BLIPMODEL_WIDTH = 512  # of its projections, where the checkpoint says nothing else
BYTES = {"float16": 2, "float32": 4}


def plan(config: StudyConfig) -> str:
    """A text for the terminal. Builds and downloads nothing."""
    cells = study.cells(config)
    lines = [config.title, "", f"{len(cells)} cells:"]
    groups: dict[tuple[str, str], list] = {}
    for spec in cells:
        groups.setdefault((spec.notebook, spec.config.folder), []).append(spec)
    for (notebook, folder), part in groups.items():
        epochs = ", ".join(str(number) for number in sorted({spec.config.epochs for spec in part}))
        seeds = ", ".join(str(number) for number in sorted({spec.config.seed for spec in part}))
        lines.append(f"  {notebook:<20} {folder:<28} {epochs} epochs, seed {seeds}")
    lines += ["", "Feature stores (about):"]
    total, missing = 0.0, []
    configs = {(*spec.sources, spec.config.data_root): spec.config for spec in cells}
    for run in configs.values():
        shape, problem = _teacher_shape(run)
        if problem:
            missing.append(problem)
        counts, problem = _counts(run)
        if problem:
            missing.append(problem)
        for split, (images, texts) in counts.items():
            size = store_bytes(images, texts, *shape, BYTES[run.feature_dtype])
            total += size
            name = f"{run.teacher}{' (untrained heads)' if run.untrained_heads else ''}"
            lines.append(f"  {name:<22} {run.dataset:<13} {split:<5} {images:>7} images {size / 1e9:>8.2f} GB")
    free = shutil.disk_usage(runs_root() if runs_root().exists() else Path.cwd()).free
    for (dataset, root, size), run in _pixel_stores(cells).items():
        images = sum(count for count, _ in _counts(run)[0].values())
        total += images * 3 * size * size
        lines.append(f"  pixels at {size}, {dataset} in {root}: {images} images {images * 3e-9 * size * size:.2f} GB")
    lines += ["", f"Disk: {total / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free at {runs_root()}."]
    if total > free:
        missing.append(f"{(total - free) / 1e9:.1f} GB of disk; set KDLIB_RUNS to a larger one")
    lines.append(
        f"Machine: {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, {_accelerator()}."
    )
    lines += (
        ["", "Missing on this machine:", *(f"  {item}" for item in dict.fromkeys(missing))]
        if missing
        else ["", "Nothing is missing."]
    )
    return "\n".join(lines)


def _pixel_stores(cells) -> dict:
    """The decoded images that the pixel students of a study read, each set once."""
    return {
        (spec.config.dataset, spec.config.data_root, spec.config.image_size): spec.config
        for spec in cells
        if reads(spec.config.method) == "pixels"
    }


def store_bytes(images: int, texts: int, tokens: int, width: int, text_tokens: float, item: int) -> float:
    """Bytes of a store: pooled, tokens and attention of each image, and of each caption's tokens."""
    per_image = (width + tokens * width + tokens) * item
    per_text = (width + text_tokens * width + text_tokens) * item
    return images * per_image + texts * per_text


def _teacher_shape(run) -> tuple[tuple[int, int, float], str]:
    """(image tokens, width, tokens of a caption), and what is missing of the teacher."""
    source = run.checkpoint or teachers.TEACHERS[run.teacher].DEFAULT
    if source == STANDIN or Path(source).is_dir():
        folder = teachers.resolve(run.teacher, source)
        return _shape_of(folder, run.untrained_heads), ""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, "config.json", revision=run.revision)
    except ValueError:
        found = None
    if isinstance(found, str):
        return _shape_of(Path(found).parent, run.untrained_heads), ""
    words = f"teacher {source}: not downloaded yet (the first run does it, if the network allows)"
    tokens, width, text = PUBLISHED[run.teacher]
    return (tokens, BLIPMODEL_WIDTH if run.untrained_heads else width, text), words


def _shape_of(folder: Path, untrained_heads: bool) -> tuple[int, int, float]:
    from kdlib.runs import read_json

    content = read_json(folder / "config.json")
    vision = content.get("vision_config") or content
    width = content.get("image_text_hidden_size") if content["model_type"] == "blip" else content.get("projection_dim")
    if untrained_heads:
        width = content.get("projection_dim", BLIPMODEL_WIDTH)
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    return tokens, width or vision["hidden_size"], 13 if "text_config" in content else 0


def _counts(run) -> tuple[dict[str, tuple[int, int]], str]:
    """Images and captions by split, and what is missing of the data."""
    if run.data_root == "shapes":
        from kdlib.data.shapes import OUTLINES, ShapesSpec

        spec = ShapesSpec()
        if run.dataset == "coco":
            dev = round(spec.train_scenes * 0.1)
            rows = {"fit": spec.train_scenes - dev, "dev": dev, "test": spec.val_scenes}
            return {split: (rows[split], 5 * rows[split]) for split in split_names(run, False)}, ""
        classes = 2 * len(OUTLINES)
        dev = round(spec.train_per_class * 0.1)
        rows = {"fit": spec.train_per_class - dev, "dev": dev, "test": spec.val_per_class}
        return {split: (rows[split] * classes, 0) for split in split_names(run, True)}, ""
    try:
        loaded = load_data(run)
        return {split: (len(data), sum(map(len, data.captions or ()))) for split, data in loaded.items()}, ""
    except (DataError, OSError):
        words = f"{run.dataset} in {run.data_root}: get it with 'kdlib data get {run.dataset}' (or --data-root)"
        full = FULL.get(run.dataset, {})
        labelled = not any(texts for _, texts in full.values())
        return {split: count for split, count in full.items() if split in split_names(run, labelled)}, words


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "no GPU"
