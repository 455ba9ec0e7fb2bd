"""The embedded data: drawn shapes, written to disk in the official layouts of Tiny ImageNet and COCO.

Two sets, both a pure function of the seed. The first has 20 classes (10 outlines, solid or striped) of one
object with random colour, size, place, rotation, clutter and noise. The second has scenes of one to four
objects with five differently worded captions and COCO instances. Neither is trivial: colours are close to
the background, clutter covers parts, and captions leave things out.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from kdlib.data.dataset import DataError
from kdlib.data.drawing import FILLS, OUTLINES, captions, draw_object, draw_scene
from kdlib.files import digest, read_json, rename, runs_root, sync

MEGABYTES = 30  # what the embedded study's data take on a disk
SCRATCH = ".drawing"


@dataclass(frozen=True)
class ShapesSpec:
    """How much is drawn. The defaults are the embedded study's data."""

    seed: int = 0
    train_per_class: int = 100
    val_per_class: int = 30
    train_scenes: int = 1800
    val_scenes: int = 500
    version: int = 1  # raised whenever the drawing changes


def ensure(spec: ShapesSpec | None = None, root: str | Path | None = None) -> Path:
    """The folder of the generated data, which is written first where it is not there yet.

    Holds tiny-imagenet-200/ and coco/. Several processes may ask at once; one of them writes. What an attempt that was
    killed has left is removed. Raises DataError with the folder when the disk does not take it; nothing is left then.
    """
    spec = spec or ShapesSpec()
    root = Path(root) if root else runs_root() / "data" / f"shapes-{digest(asdict(spec))[:8]}"
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{root}.lock"):
            if read_json(root / "shapes.json") != asdict(spec):
                _draw(root, spec)
    except OSError as error:
        raise DataError(
            f"{root}: the embedded data could not be drawn here ({error.strerror or error}). They take {MEGABYTES} MB; "
            "make room, or set KDLIB_RUNS to a folder on another disk. Nothing was left half-drawn."
        ) from error
    return root


def _draw(root: Path, spec: ShapesSpec) -> None:
    for left in root.parent.glob(f"{root.name}.*{SCRATCH}"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: the lock is ours
    scratch = Path(tempfile.mkdtemp(prefix=f"{root.name}.", suffix=SCRATCH, dir=root.parent))
    try:
        write(scratch, spec)
        scratch.chmod(0o755)  # mkdtemp's is for its owner alone
        for path in scratch.rglob("*"):
            sync(path)  # a power cut must not leave empty images behind a whole shapes.json
        if root.exists():
            shutil.rmtree(root)
        rename(scratch, root)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write(root: Path, spec: ShapesSpec) -> None:
    """Draw both sets below ``root``; shapes.json, written last, says that they are complete."""
    _write_tinyimagenet(root / "tiny-imagenet-200", spec)
    _write_coco(root / "coco", spec)
    (root / "shapes.json").write_text(json.dumps(asdict(spec), indent=1))


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, format="JPEG", quality=92)


def _write_tinyimagenet(root: Path, spec: ShapesSpec) -> None:
    classes = [(outline, fill) for outline in OUTLINES for fill in FILLS]
    wnids = [f"n{90000001 + index}" for index in range(len(classes))]
    root.mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids) + "\n")
    words = [f"{wnid}\t{fill} {outline}" for wnid, (outline, fill) in zip(wnids, classes, strict=True)]
    (root / "words.txt").write_text("\n".join(words) + "\n")
    for index, (wnid, (outline, fill)) in enumerate(zip(wnids, classes, strict=True)):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for number in range(spec.train_per_class):
            rng = np.random.default_rng([spec.seed, 0, index, number])
            _save(draw_object(rng, outline, fill)[0], folder / f"{wnid}_{number}.JPEG")
    folder = root / "val" / "images"
    folder.mkdir(parents=True)
    lines = []
    for number in range(spec.val_per_class * len(classes)):
        index = number % len(classes)
        rng = np.random.default_rng([spec.seed, 1, index, number])
        _save(draw_object(rng, *classes[index])[0], folder / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnids[index]}\t0\t0\t63\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def _write_coco(root: Path, spec: ShapesSpec) -> None:
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(OUTLINES)]
    for part, count, stream in (("train2017", spec.train_scenes, 2), ("val2017", spec.val_scenes, 3)):
        (root / part).mkdir()
        images, texts, instances = [], [], []
        for number in range(count):
            rng = np.random.default_rng([spec.seed, stream, number])
            image, things, boxes = draw_scene(rng)
            image_id = stream * 100_000 + number
            file_name = f"{image_id:012d}.jpg"
            _save(image, root / part / file_name)
            images.append({"id": image_id, "file_name": file_name, "width": image.width, "height": image.height})
            for caption in captions(rng, things):
                texts.append({"id": len(texts) + 1, "image_id": image_id, "caption": caption})
            for thing, box in zip(things, boxes, strict=True):
                category = OUTLINES.index(thing.outline) + 1
                instances.append(
                    {
                        "id": len(instances) + 1,
                        "image_id": image_id,
                        "category_id": category,
                        "bbox": [round(value, 2) for value in box],
                        "area": round(box[2] * box[3], 2),
                        "iscrowd": 0,
                    }
                )
        _dump(root / f"annotations/captions_{part}.json", {"images": images, "annotations": texts})
        record = {"images": images, "annotations": instances, "categories": categories}
        _dump(root / f"annotations/instances_{part}.json", record)


def _dump(path: Path, record: dict) -> None:
    path.write_text(json.dumps({"info": {"description": "kdlib shapes"}, "licenses": [], **record}))
