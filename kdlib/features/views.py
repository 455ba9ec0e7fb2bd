"""Views: crop, mirror image and colour as a pure function of an image's id and the view's number.

The teacher sees them once, when their features are stored; the student sees the same ones whenever it is trained. A
flip must be a view of its own: the mirrored features of an image are not the features of its mirror image.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance


@dataclass(frozen=True)
class View:
    """What is seen of the centre square of an image: the box in shares of its side, and how it is changed.

    ``brightness``, ``contrast`` and ``saturation`` are factors, 1 for none.
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
    """How views are drawn, and how many of an image there are.

    ``count``: so many, each with the teacher's own feature; 0: a new one every epoch, whose target is the teacher's
    feature of the whole image. ``crop``: least share of the area that is kept; ``flip``: half are mirrored;
    ``colour``: brightness, contrast and saturation by up to so much, up or down.
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
        """Whether a view is anything else than the image."""
        return self.crop < 1 or self.flip or self.colour > 0

    def number(self, epoch: int) -> int:
        """The view that an epoch trains on; epochs count from 1."""
        return (epoch - 1) % self.count if self.count else epoch - 1

    def source_size(self, size: int) -> int:
        """Side of the pixels that are kept, so that the smallest crop still has ``size`` of them a side."""
        return math.ceil(size / self.crop**0.5)

    def draw(self, name: str, number: int) -> View:
        """View ``number`` of the image ``name``: area even in [``crop``, 1], place even within the image."""
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
