"""Draws the synthetic images: single objects, and scenes with five captions. Every number comes from the generator."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

OUTLINES = ("circle", "square", "triangle", "star", "cross", "ring", "pentagon", "crescent", "heart", "arrow")
FILLS = ("solid", "striped")
COLOURS = {
    "red": (205, 50, 45), "green": (60, 150, 70), "blue": (55, 90, 200), "yellow": (220, 195, 60),
    "purple": (140, 70, 170), "orange": (230, 135, 45), "white": (235, 235, 230), "black": (30, 30, 35),
}  # fmt: skip
NUMBERS = ("no", "one", "two", "three", "four")
SUPERSAMPLING = 3


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon of radius 1, or a star when every second corner lies at ``inner``."""
    count = corners if inner == 1.0 else 2 * corners
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    radii = [(1.0, inner)[i % 2] for i in range(count)]
    return np.array([(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])


def _outline(name: str) -> list[np.ndarray]:
    """Closed outlines in the unit disc; a second one is cut out of the first."""
    circle = _regular(48)
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    heart = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    arm = np.array([(-0.34, -1), (0.34, -1), (0.34, -0.34)])
    turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return {
        "circle": [circle],
        "square": [_regular(4)],
        "triangle": [_regular(3)],
        "star": [_regular(5, inner=0.42)],
        "pentagon": [_regular(5)],
        "ring": [circle, 0.55 * circle],
        "crescent": [circle, 0.85 * circle + np.array([0.42, 0.0])],
        "cross": [np.concatenate([arm @ turn for turn in turns])],
        "heart": [np.stack([np.sin(t) ** 3, heart], axis=1)],
        "arrow": [np.array([(-1, -0.28), (0.1, -0.28), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28)])],
    }[name]


def _mask(size, outline: str, fill: str, centre, radius: float, angle: float, stripe: float) -> Image.Image:
    """An antialiased mask of one object; ``size``, ``centre`` and ``radius`` in pixels."""
    scale = SUPERSAMPLING
    mask = Image.new("L", (size[0] * scale, size[1] * scale), 0)
    draw = ImageDraw.Draw(mask)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    for order, points in enumerate(_outline(outline)):
        moved = (points @ turn.T * radius + np.array(centre)) * scale
        draw.polygon([tuple(point) for point in moved], fill=0 if order else 255)
    if fill == "striped":
        rows, columns = np.mgrid[0 : mask.height, 0 : mask.width] / scale
        along = (columns - centre[0]) * math.cos(angle + 0.6) + (rows - centre[1]) * math.sin(angle + 0.6)
        gaps = (along / stripe) % 1.0 < 0.45
        mask = Image.fromarray(np.where(gaps, 0, np.asarray(mask)).astype(np.uint8))
    return mask.resize(size, Image.Resampling.BOX)


def _background(rng: np.random.Generator, size) -> Image.Image:
    """A dull gradient between two random colours."""
    width, height = size
    first, second = rng.uniform(70, 190, 3), rng.uniform(70, 190, 3)
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[0:height, 0:width]
    along = columns / width * math.cos(angle) + rows / height * math.sin(angle)
    along = (along - along.min()) / (np.ptp(along) + 1e-9)
    return Image.fromarray((first + (second - first) * along[..., None]).astype(np.uint8))


def _clutter(image: Image.Image, rng: np.random.Generator, strokes: int) -> None:
    """Draw random line segments into ``image``."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(strokes):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle, length = rng.uniform(0, math.pi), rng.uniform(0.15, 0.5) * width
        colour = tuple(int(value) for value in rng.uniform(40, 215, 3))
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        draw.line([(x, y), end], fill=colour, width=int(rng.integers(1, 4)))


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


@dataclass(frozen=True)
class Thing:
    """One object of a scene; place in a 3 x 3 grid, counted from the top left."""

    outline: str
    colour: str
    large: bool
    column: int
    row: int

    @property
    def phrase(self) -> str:
        """As 'large red star'."""
        return f"{'large' if self.large else 'small'} {self.colour} {self.outline}"

    @property
    def place(self) -> str:
        """As 'top left'; 'middle' in the centre."""
        return f"{('top', '', 'bottom')[self.row]} {('left', '', 'right')[self.column]}".strip() or "middle"


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, list[Thing]]:
    """A scene and its objects."""
    size = ((96, 96), (112, 84), (84, 112))[rng.integers(0, 3)]
    cells = rng.permutation(9)[: rng.integers(1, 5)]  # of the 3 x 3 grid
    image = _background(rng, size)
    _clutter(image, rng, int(rng.integers(0, 3)))
    things = []
    # 0.12 of each border stays free of objects, since a teacher's centre crop may cut it off
    step = min(size) * 0.76 / 3
    left, top = (size[0] - 3 * step) / 2, (size[1] - 3 * step) / 2
    for cell in sorted(cells):
        outline, colour = str(rng.choice(OUTLINES)), str(rng.choice(list(COLOURS)))
        thing = Thing(outline, colour, bool(rng.integers(0, 2)), column=int(cell) % 3, row=int(cell) // 3)
        radius = step * (0.52 if thing.large else 0.32)
        centre = np.array([left + (thing.column + 0.5) * step, top + (thing.row + 0.5) * step])
        centre = centre + rng.uniform(-0.1, 0.1, 2) * step
        mask = _mask(size, thing.outline, "solid", centre, radius, rng.uniform(-0.5, 0.5), radius)
        shade = np.array(COLOURS[thing.colour]) + rng.normal(0, 14, 3)
        image.paste(tuple(int(value) for value in shade.clip(0, 255)), mask=mask)
        things.append(thing)
    return _noise(image, rng, rng.uniform(3, 12)), things


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _relation(first: Thing, second: Thing) -> str:
    if first.row != second.row:
        return "above" if first.row < second.row else "below"
    return "to the left of" if first.column < second.column else "to the right of"


def captions(rng: np.random.Generator, things: list[Thing]) -> list[str]:
    """Five captions of a scene. Each leaves something else out, as size, place or colour."""
    order = [things[i] for i in rng.permutation(len(things))]
    one, number = order[0], len(things)
    counts = {name: sum(thing.outline == name for thing in things) for name in OUTLINES}
    counted = [f"{NUMBERS[n]} {name}{'s' if n > 1 and name[-1] != 's' else ''}" for name, n in counts.items() if n]
    others = f"{_relation(one, order[1])} {_article(order[1].outline)}" if number > 1 else "all alone"
    return [
        f"a picture of {_listed([_article(thing.phrase) for thing in order])}",
        f"{_article(f'{one.colour} {one.outline}')} {others}",
        f"there is {_article(one.phrase)} in the {one.place}",
        f"{_listed(counted)} on a plain background",
        f"{NUMBERS[number]} {'shape' if number == 1 else 'shapes'} coloured "
        f"{_listed([thing.colour for thing in order])}, the first of them in the {one.place}",
    ]
