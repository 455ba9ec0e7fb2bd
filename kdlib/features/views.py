"""Views: augmented images (crop, flip, colour), each a pure function of the image's id and the view's number.

The teacher encodes each view once, when its feature is stored; the student trains on the same views. A flip is part of
a view, since the teacher's feature of a mirrored image cannot be computed from that of the image.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance


@dataclass(frozen=True)
class View:
    """One view: a square box in the centre square of an image, in shares of its side, and the changes to its pixels.

    ``brightness``, ``contrast`` and ``saturation`` are factors; 1 changes nothing.
    """

    left: float
    top: float
    side: float
    flip: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def of(self, image: Image.Image, size: int) -> Image.Image:
        """The view of an image of any shape, RGB at ``size`` x ``size``; resampled once, bicubic."""
        short = min(image.size)
        left = (image.width - short) / 2 + self.left * short
        top = (image.height - short) / 2 + self.top * short
        seen = image.resize(
            (size, size), Image.Resampling.BICUBIC, box=(left, top, left + self.side * short, top + self.side * short)
        )
        if self.flip:
            seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for factor, enhancer in (
            (self.brightness, ImageEnhance.Brightness),
            (self.contrast, ImageEnhance.Contrast),
            (self.saturation, ImageEnhance.Color),
        ):
            seen = enhancer(seen).enhance(factor) if factor != 1 else seen
        return seen


@dataclass(frozen=True)
class Views:
    """How views are drawn, and how many there are of each image.

    ``count``: views of each image, each with its own stored feature of the teacher. 0: a new view every epoch, whose
    target is the teacher's feature of the whole image. ``crop``: the least share of the area that a view keeps.
    ``flip``: half of the views are mirrored. ``colour``: the largest change of brightness, contrast and saturation, as
    a share, up or down.
    """

    count: int = 0
    crop: float = 1.0
    flip: bool = False
    colour: float = 0.0

    def __post_init__(self):
        if self.count and not self.change:
            raise ValueError(
                f"views is {self.count}, but nothing makes them different from the image: set crop below 1, flip or "
                "colour; or set views to 0."
            )

    @property
    def change(self) -> bool:
        """Whether a view differs from the image."""
        return self.crop < 1 or self.flip or self.colour > 0

    def number(self, epoch: int) -> int:
        """The view that an epoch trains on; epochs count from 1."""
        return (epoch - 1) % self.count if self.count else epoch - 1

    def source_size(self, size: int) -> int:
        """Side of the stored pixels from which the smallest crop still has ``size`` pixels a side."""
        return math.ceil(size / self.crop**0.5)

    def draw(self, name: str, number: int) -> View:
        """View ``number`` of the image ``name``: area uniform in [``crop``, 1], place uniform within the image."""
        # Eight numbers in [0, 1) from one digest: the same on every machine and with every version of numpy.
        words = np.frombuffer(hashlib.sha256(f"{name}/{number}".encode()).digest(), dtype="<u4")
        area, x, y, mirror, *colours = (words / 2**32).tolist()
        side = (self.crop + (1 - self.crop) * area) ** 0.5
        factors = [1 + self.colour * (2 * share - 1) for share in colours[:3]]
        return View(x * (1 - side), y * (1 - side), side, self.flip and mirror < 0.5, *factors)


def pixels_of(views: Views, source: np.ndarray, names: list[str], number: int, size: int) -> np.ndarray:
    """The views ``number`` of images, (B, 3, size, size) uint8, from ``source`` (B, 3, S, S) and their names."""
    made = np.empty((len(source), 3, size, size), dtype=np.uint8)
    for row, (pixels, name) in enumerate(zip(source, names, strict=True)):
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        made[row] = np.asarray(views.draw(name, number).of(image, size)).transpose(2, 0, 1)
    return made
