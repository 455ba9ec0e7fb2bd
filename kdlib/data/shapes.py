"""Synthetic data in the layouts of Tiny ImageNet and COCO: classes of one object, scenes with five captions."""

import json
import math
import shutil
from collections import namedtuple
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kdlib.data.files import DataError
from kdlib.utils import digest, locked, read_json, runs_root, write_atomic

COLOURS = {
    "red": (205, 50, 45), "green": (60, 150, 70), "blue": (55, 90, 200), "yellow": (220, 195, 60),
    "purple": (140, 70, 170), "orange": (230, 135, 45), "white": (235, 235, 230), "black": (30, 30, 35),
}  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four")


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon of radius 1, or a star when every second corner lies at ``inner``."""
    count = corners if inner == 1.0 else 2 * corners
    polar = [((1.0, inner)[i % 2], 2 * math.pi * i / count - math.pi / 2) for i in range(count)]
    return np.array([(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in polar])


_ARM = np.array([(-0.34, -1), (0.34, -1), (0.34, -0.34)])
_TURNS = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
_T = np.linspace(0, 2 * math.pi, 60, endpoint=False)
_HEART = -(13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)) / 17
POLYGONS = {  # closed outlines in the unit disc; a second one is cut out of the first
    "circle": [_regular(48)],
    "square": [_regular(4)],
    "triangle": [_regular(3)],
    "star": [_regular(5, inner=0.42)],
    "cross": [np.concatenate([_ARM @ turn for turn in _TURNS])],
    "ring": [_regular(48), 0.55 * _regular(48)],
    "pentagon": [_regular(5)],
    "crescent": [_regular(48), 0.85 * _regular(48) + np.array([0.42, 0.0])],
    "heart": [np.stack([np.sin(_T) ** 3, _HEART], axis=1)],
    "arrow": [np.array([(-1, -0.28), (0.1, -0.28), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28)])],
}
OUTLINES = tuple(POLYGONS)
CLASSES = [(outline, fill) for outline in OUTLINES for fill in ("solid", "striped")]
Thing = namedtuple("Thing", "outline colour large column row")  # an object of a scene, in a place of a 3 x 3 grid


def _mask(size, outline: str, fill: str, centre, radius: float, angle: float, stripe: float) -> Image.Image:
    """A mask of one object, drawn at three times its size; ``size``, ``centre`` and ``radius`` in pixels."""
    mask = Image.new("L", (size[0] * 3, size[1] * 3), 0)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for order, points in enumerate(POLYGONS[outline]):
        moved = (points @ turn.T * radius + np.array(centre)) * 3
        ImageDraw.Draw(mask).polygon([tuple(point) for point in moved], fill=0 if order else 255)
    if fill == "striped":
        rows, columns = np.mgrid[0 : mask.height, 0 : mask.width] / 3
        along = (columns - centre[0]) * math.cos(angle + 0.6) + (rows - centre[1]) * math.sin(angle + 0.6)
        gaps = (along / stripe) % 1.0 < 0.45
        mask = Image.fromarray(np.where(gaps, 0, np.asarray(mask)).astype(np.uint8))
    return mask.resize(size, Image.Resampling.BOX)


def _background(rng: np.random.Generator, size) -> Image.Image:
    """A dull gradient between two random colours."""
    first, second = rng.uniform(70, 190, 3), rng.uniform(70, 190, 3)
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    along = columns / size[0] * math.cos(angle) + rows / size[1] * math.sin(angle)
    along = (along - along.min()) / (np.ptp(along) + 1e-9)
    return Image.fromarray((first + (second - first) * along[..., None]).astype(np.uint8))


def _clutter(image: Image.Image, rng: np.random.Generator, strokes: int) -> None:
    """Draw random line segments into ``image``."""
    width, height = image.size
    for _ in range(strokes):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle, length = rng.uniform(0, math.pi), rng.uniform(0.15, 0.5) * width
        colour = tuple(int(value) for value in rng.uniform(40, 215, 3))
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        ImageDraw.Draw(image).line([(x, y), end], fill=colour, width=int(rng.integers(1, 4)))


def _noise(image: Image.Image, rng: np.random.Generator, sigma: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) + rng.normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_object(rng: np.random.Generator, outline: str, fill: str, size: int = 64) -> tuple[Image.Image, Image.Image]:
    """An image of one object (the class: outline and fill; all else random), ``size`` x ``size``, and its mask."""
    image = _background(rng, (size, size))
    _clutter(image, rng, int(rng.integers(0, 4)))
    radius = rng.uniform(0.16, 0.36) * size
    centre = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
    mask = _mask((size, size), outline, fill, centre, radius, rng.uniform(0, 2 * math.pi), radius * 0.4)
    image.paste(tuple(int(value) for value in rng.uniform(30, 230, 3)), mask=mask)
    _clutter(image, rng, int(rng.integers(1, 5)))
    return _noise(image, rng, rng.uniform(4, 18)), mask


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, list[Thing]]:
    """A scene and its objects."""
    size = ((96, 96), (112, 84), (84, 112))[rng.integers(0, 3)]
    cells = rng.permutation(9)[: rng.integers(1, 5)]  # of the 3 x 3 grid
    image = _background(rng, size)
    _clutter(image, rng, int(rng.integers(0, 3)))
    things = []
    step = min(size) * 0.76 / 3  # the border stays free of objects, since a teacher's centre crop may cut it off
    for cell in sorted(cells):
        outline, colour = str(rng.choice(OUTLINES)), str(rng.choice(list(COLOURS)))
        thing = Thing(outline, colour, bool(rng.integers(0, 2)), column=int(cell) % 3, row=int(cell) // 3)
        radius = step * (0.52 if thing.large else 0.32)
        left, top = (size[0] - 3 * step) / 2, (size[1] - 3 * step) / 2
        middle = np.array([left + (thing.column + 0.5) * step, top + (thing.row + 0.5) * step])
        centre = middle + rng.uniform(-0.1, 0.1, 2) * step
        mask = _mask(size, outline, "solid", centre, radius, rng.uniform(-0.5, 0.5), radius)
        shade = np.array(COLOURS[colour]) + rng.normal(0, 14, 3)
        image.paste(tuple(int(value) for value in shade.clip(0, 255)), mask=mask)
        things.append(thing)
    return _noise(image, rng, rng.uniform(3, 12)), things


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def captions(rng: np.random.Generator, things: list[Thing]) -> list[str]:
    """Five captions of a scene. Each leaves something else out, as size, place or colour."""
    order = [things[i] for i in rng.permutation(len(things))]
    one, number, others = order[0], len(things), "all alone"
    phrases = [_article(f"{'large' if thing.large else 'small'} {thing.colour} {thing.outline}") for thing in order]
    place = f"{('top', '', 'bottom')[one.row]} {('left', '', 'right')[one.column]}".strip() or "middle"
    if number > 1:
        across = "to the left of" if one.column < order[1].column else "to the right of"
        down = "above" if one.row < order[1].row else "below"
        others = f"{across if one.row == order[1].row else down} {_article(order[1].outline)}"
    counts = {name: sum(thing.outline == name for thing in things) for name in OUTLINES}
    counted = [f"{NUMBERS[n]} {name}{'s' if n > 1 and name[-1] != 's' else ''}" for name, n in counts.items() if n]
    return [
        f"a picture of {_listed(phrases)}",
        f"{_article(f'{one.colour} {one.outline}')} {others}",
        f"there is {phrases[0]} in the {place}",
        f"{_listed(counted)} on a plain background",
        f"{NUMBERS[number]} {'shape' if number == 1 else 'shapes'} coloured "
        f"{_listed([thing.colour for thing in order])}, the first of them in the {place}",
    ]


@dataclass(frozen=True)
class ShapesSpec:
    """How much is made. The defaults are the demo study's data."""

    seed: int = 0
    train_per_class: int = 100
    val_per_class: int = 30
    train_scenes: int = 1800
    val_scenes: int = 500
    version: int = 1  # raised whenever the drawing changes


def ensure(spec: ShapesSpec | None = None, root: str | Path | None = None) -> Path:
    """The folder with tiny-imagenet-200/ and coco/, written first where it is not there, by one of several callers."""
    spec = spec or ShapesSpec()
    root = Path(root or runs_root() / "data" / f"shapes-{digest(asdict(spec))[:8]}")
    if read_json(root / "shapes.json") == asdict(spec):
        return root
    try:
        with locked(Path(f"{root}.lock")):
            if read_json(root / "shapes.json") != asdict(spec):
                shutil.rmtree(root, ignore_errors=True)  # another size, or an attempt that was killed
                _write_classes(root / "tiny-imagenet-200", spec)
                _write_scenes(root / "coco", spec)
                write_atomic(root / "shapes.json", json.dumps(asdict(spec)))  # last: all is there
    except OSError as error:
        remedy = "Make room, or set KDLIB_RUNS to a folder on another disk"
        raise DataError(f"{root}: the synthetic data could not be written ({error}). {remedy}.") from error
    return root


def _write_classes(root: Path, spec: ShapesSpec) -> None:
    wnids, lines = [f"n{90000001 + index}" for index in range(len(CLASSES))], []

    def write(name: str, stream: int, index: int, number: int) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image, _ = draw_object(np.random.default_rng([spec.seed, stream, index, number]), *CLASSES[index])
        image.save(root / name, quality=92)

    for index, wnid in enumerate(wnids):
        for number in range(spec.train_per_class):
            write(f"train/{wnid}/images/{wnid}_{number}.JPEG", 0, index, number)
    for number in range(spec.val_per_class * len(CLASSES)):
        index = number % len(CLASSES)
        write(f"val/images/val_{number}.JPEG", 1, index, number)
        lines.append(f"val_{number}.JPEG\t{wnids[index]}\t0\t0\t63\t63\n")
    words = [f"{wnid}\t{fill} {outline}\n" for wnid, (outline, fill) in zip(wnids, CLASSES, strict=True)]
    write_atomic(root / "wnids.txt", "".join(f"{wnid}\n" for wnid in wnids))
    write_atomic(root / "words.txt", "".join(words))
    write_atomic(root / "val/val_annotations.txt", "".join(lines))


def _write_scenes(root: Path, spec: ShapesSpec) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(OUTLINES, start=1)]
    for part, count, stream in (("train2017", spec.train_scenes, 2), ("val2017", spec.val_scenes, 3)):
        (root / part).mkdir(parents=True)
        images, texts, instances = [], [], []
        for index in range(count):
            number, rng = stream * 100_000 + index, np.random.default_rng([spec.seed, stream, index])
            image, things = draw_scene(rng)
            image.save(root / part / f"{number:012d}.jpg", quality=92)
            images.append({"id": number, "file_name": f"{number:012d}.jpg"})
            for text in captions(rng, things):
                texts.append({"id": len(texts) + 1, "image_id": number, "caption": text})
            for thing in things:
                category = OUTLINES.index(thing.outline) + 1
                instances.append({"id": len(instances) + 1, "image_id": number, "category_id": category})
        shown = {"annotations": instances, "categories": categories}
        write_atomic(root / f"annotations/captions_{part}.json", json.dumps({"images": images, "annotations": texts}))
        write_atomic(root / f"annotations/instances_{part}.json", json.dumps(shown))
