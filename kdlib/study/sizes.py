"""What a study reads and keeps, before any of it is there: images, stores and their bytes, and what is missing here."""

from dataclasses import dataclass, field

from kdlib.config import RunConfig
from kdlib.data import shapes
from kdlib.data.coco import CAPTIONS
from kdlib.data.dataset import DataError
from kdlib.data.extra import DRAWN
from kdlib.sources import load_data, reads, split_names, views_of
from kdlib.study.file import ExperimentSpec
from kdlib.teachers import check

# Images and captions of the full sets by split, for sizes before the data is there.
FULL = {
    "tinyimagenet": {"fit": (90_000, 0), "dev": (10_000, 0), "test": (10_000, 0)},
    "coco": {"fit": (113_287, 566_435), "dev": (5_000, 25_000), "test": (5_000, 25_000)},
}
CAPTION_TOKENS = 13  # of COCO's captions in the mean
# Tokens and width of the published checkpoints, for sizes before one is there; of one's own, those of a ViT-B/16.
PUBLISHED = {"dinov2": (256, 768), "clip": (49, 512), "blip": (576, 256)}
VIT, BLIPMODEL_WIDTH = (196, 768), 512
BYTES, ID_BYTES = {"float16": 2, "float32": 4}, 6  # of a number, of a token's id and the number of its word


@dataclass(frozen=True)
class Source:
    """What is known of the inputs that experiments share: ``counts``: split -> (images, captions).

    ``extra``: what experiments are also trained on, as their configurations name it -> (images, captions); ``views``:
    views of images that the teacher is run on; ``has_teacher`` and ``has_data``: whether they are on this machine.
    """

    spec: ExperimentSpec
    counts: dict[str, tuple[int, int]]
    tokens: int
    width: int
    text: bool
    missing: tuple[str, ...]
    stores_tokens: bool
    extra: dict[str, tuple[int, int]] = field(default_factory=dict)
    views: int = 0
    has_teacher: bool = True
    has_data: bool = True

    @property
    def stores(self) -> list[tuple[str, int, float]]:
        """(name, images, bytes) of each store that the teacher fills."""
        item, words = BYTES[self.spec.config.feature_dtype], CAPTION_TOKENS if self.text else 0
        shape = self.tokens, self.width, words, item, self.stores_tokens
        parts = [*self.counts.items(), *(("extra", count) for name, count in self.extra.items() if name)]
        found = [(name, images, store_bytes(images, texts, *shape)) for name, (images, texts) in parts]
        return found + ([("views", self.views, self.views * self.width * item)] if self.views else [])

    @property
    def passes(self) -> int:
        """Images and views that the teacher is run on."""
        return sum(images for _, images, _ in self.stores)

    @property
    def images(self) -> int:
        """Images of all splits."""
        return sum(images for images, _ in self.counts.values())

    def pixels(self, config: RunConfig) -> dict[tuple[str, str, str, int, str], int]:
        """(data set, its root, part, side, extra images) -> images whose pixels are stored, if the student reads them.

        Views are cut from larger pixels of the training images, which are stored beside those of all images.
        """
        if reads(config.method) != "pixels":
            return {}
        extra, views, data = self.extra[config.extra_images][0], views_of(config), (config.dataset, config.data_root)
        found = {
            (*data, "all", config.image_size, ""): self.images,
            (*data, "extra", config.image_size, config.extra_images): extra,
        }
        if views and (side := views.source_size(config.image_size)) > config.image_size:
            found[*data, "views", side, config.extra_images] = self.counts.get("fit", (0, 0))[0] + extra
        return {store: images for store, images in found.items() if images}


def sources_of(specs: list[ExperimentSpec]) -> dict[tuple, Source]:
    """By ``spec.sources``: sizes, and what is missing of teacher and data."""
    found = {}
    for spec in {spec.sources: spec for spec in reversed(specs)}.values():
        run, tokens = spec.config, any(reads(one.config.method) == "tokens" for one in specs
                                       if one.sources == spec.sources)  # fmt: skip
        alike = [one.config for one in specs if one.sources == spec.sources]
        counts, missing = _counts(run.model_copy(update={"extra_images": ""}))
        has = {"has_data": not missing, "has_teacher": False}
        extra = {one.extra_images: _extra(one) for one in alike}
        seen = {(views_of(one), one.extra_images) for one in alike if views_of(one)}
        views = sum(drawn.count * (counts.get("fit", (0, 0))[0] + extra[name][0]) for drawn, name in seen)
        (patches, width), text = PUBLISHED.get(run.teacher, VIT), run.teacher in ("clip", "siglip2", "blip")
        width = BLIPMODEL_WIDTH if run.untrained_heads else width
        try:
            given = run.teacher, run.checkpoint, run.revision, run.allow_untrained, run.untrained_heads
            standing = check.standing(*given)
            if standing.ready:
                has["has_teacher"] = bool(counts)
                patches, width, text = standing.tokens, standing.width, standing.reads_text
            else:
                missing += [str(standing)]
        except (ImportError, AttributeError, KeyError) as error:
            missing += [f"teacher {run.teacher}: {error.args[0]}"]
        found[spec.sources] = Source(spec, counts, run.token_grid**2 or patches, width, text, tuple(missing), tokens,
                                     extra, views, **has)  # fmt: skip
    return found


def _extra(run: RunConfig) -> tuple[int, int]:
    """Extra images and their captions; drawn ones are not drawn for it."""
    if (number := run.extra_images.removeprefix(DRAWN)).isdecimal():
        images = int(number)
        return images, images * CAPTIONS * (run.dataset == "coco")
    try:
        data = load_data(run).get("extra", ()) if run.extra_images else ()
    except (DataError, OSError):  # said where the data are counted, or by the run
        return 0, 0
    return len(data), sum(map(len, getattr(data, "captions", None) or ()))


def _counts(run: RunConfig) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Images and captions by split, those of the full set where the data is not here; and what is missing of it."""
    try:
        if run.data_root == "shapes":
            shapes.ensure()
        return {name: (len(data), sum(map(len, data.captions or ()))) for name, data in load_data(run).items()}, []
    except (DataError, OSError):
        words = f"{run.dataset} in {run.data_root}: get it with 'kdlib data get {run.dataset}' (or --data-root)"
        full = FULL.get(run.dataset, {})
        names = split_names(run, not any(texts for _, texts in full.values()))
        return {split: count for split, count in full.items() if split in names}, [words]


def store_bytes(
    images: int, texts: int, tokens: int, width: int, text_tokens: float, item: int, stored: bool = True
) -> float:
    """Bytes of a store: pooled and attention of each image, attention and ids of each caption's tokens.

    ``stored``: and the features of all tokens.
    """
    per_image = (width + tokens * (width * stored + 1)) * item
    per_text = (width + text_tokens * (width * stored + 1)) * item + text_tokens * ID_BYTES
    return images * per_image + texts * per_text
