"""The inputs of an experiment: the data set's splits, the teacher, and the stores of its features and of pixels."""

from dataclasses import replace

from filelock import FileLock

from kdlib import data as datasets
from kdlib import features, students, teachers
from kdlib.config import RunConfig
from kdlib.data import extra
from kdlib.data import splits as splitting
from kdlib.evaluate import zeroshot
from kdlib.features.loader import Split, joined
from kdlib.features.views import Views
from kdlib.features.vocabulary import Vocabulary
from kdlib.files import digest, read_record, runs_root, write_json
from kdlib.keys import own_code
from kdlib.machine import choose, hardware


def split_names(config: RunConfig, labelled: bool) -> tuple[str, ...]:
    """The splits that an experiment reads. Captions need dev only with a cooldown; scores on dev need no test."""
    if config.score_on == "dev":
        return ("fit", "dev")
    return ("fit", "dev", "test") if labelled or config.cooldown else ("fit", "test")


def load_data(config: RunConfig) -> dict[str, datasets.Dataset]:
    """The splits that an experiment reads, without an image in two of them. 'extra' is only trained on."""
    first = datasets.load(config.dataset, config.data_root, "fit")
    wanted = split_names(config, first.labels is not None)
    loaded = {
        name: first if name == "fit" else datasets.load(config.dataset, config.data_root, name) for name in wanted
    }
    if config.extra_images:
        loaded["extra"] = extra.load(config.extra_images, first)
    return splitting.separate(loaded, config.on_overlap)


def source(config: RunConfig) -> str:
    """The teacher's checkpoint; the published one if the configuration names none."""
    return config.checkpoint or teachers.TEACHERS[config.teacher].DEFAULT


def reads(method: str) -> str:
    """What a student of this method reads of an image: features, tokens or pixels."""
    return students.class_of(method).reads


def open_splits(config: RunConfig, data: dict[str, datasets.Dataset]) -> dict[str, Split]:
    """All splits with their stores, which are built if they are missing, and the vocabulary of the training texts."""
    splits = {name: open_split(config, name, dataset) for name, dataset in data.items()}
    texts = [splits[name].store["text_ids"] for name in ("fit", "extra") if name in splits and has_ids(splits[name])]
    if not texts:
        return splits
    vocabulary = Vocabulary.of(*texts)
    return {name: replace(split, vocabulary=vocabulary) for name, split in splits.items()}


def has_ids(split: Split) -> bool:
    """Whether the split's store holds the token ids of its captions."""
    return "text_ids" in split.store


def open_split(config: RunConfig, name: str, dataset: datasets.Dataset) -> Split:
    """One split with its stores, which are built if they are missing."""
    store = teacher_store(config, dataset)
    pixels = pixel_store(config, dataset) if reads(config.method) == "pixels" else None
    labels = None if dataset.labels is None else dataset.labels[store.rows]
    relevant = None
    if dataset.categories is not None:
        relevant = zeroshot.relevance(dataset.categories, len(dataset.category_names))[store.rows]
    views, source, features_of_views = views_of(config), None, None
    if views is not None and name in ("fit", "extra"):
        source = pixel_store(config, dataset, views.source_size(config.image_size))
        features_of_views = view_store(config, dataset) if views.count else None
    return Split(name, store, pixels, labels, relevant, source, features_of_views)


def training_split(config: RunConfig, splits: dict[str, Split], losses: set[str]) -> Split:
    """The training images: fit and the extra ones. Raises ValueError if ``losses`` cannot be computed on them."""
    split = joined(splits["fit"], splits.get("extra"))
    paired = losses & {"contrastive", "combined", "teacher_contrastive"}
    if paired and split.has_text and 0 in split.store["caption_count"]:
        raise ValueError(
            f"The extra images of {config.extra_images} have no captions, which {', '.join(sorted(paired))} pairs with "
            "images. Take losses that compare each side with the teacher's, as feature_regression+anchor_kl, or images "
            "with captions (captions.json in their folder, or drawn ones)."
        )
    if "labels" in losses and (split.labels < 0).any():
        raise ValueError(
            f"The extra images of {config.extra_images} have no labels of this data set, which the objective labels "
            "(or no_teacher) learns from. Leave extra_images out, or take drawn ones beside the embedded data."
        )
    if "attention_transfer" in losses and views_of(config) is not None:
        raise ValueError(
            "attention_transfer has the teacher's map of the whole image, not of its views. Leave views, crop, flip "
            "and colour out, or the loss."
        )
    return split


def views_of(config: RunConfig) -> Views | None:
    """The augmentation of a pixel student's training images; None if there is none."""
    views = Views(config.views, config.crop, config.flip, config.colour)
    if not views.change or reads(config.method) != "pixels":
        return None
    return views


def view_store(config: RunConfig, dataset: datasets.Dataset) -> features.FeatureStore:
    """The teacher's features of each image's views, computed if they are missing."""
    views = views_of(config)
    parts = features.view_parts(describe(config), dataset, config.feature_dtype, views)
    encoder = features.view_encoder(lambda: load_teacher(config), config.feature_dtype, views)
    return _complete(config, features.ensure(parts, dataset, encoder, config.on_bad_image))


def teacher_store(config: RunConfig, dataset: datasets.Dataset, tokens: bool | None = None) -> features.FeatureStore:
    """The teacher's features of one split, computed if they are missing.

    ``tokens``: whether to store the features of each token too, which take most of the disk; by default, if the
    configuration's student reads them. A store that has them serves the other students too.
    """
    tokens = reads(config.method) == "tokens" if tokens is None else tokens
    parts = _teacher_parts(config, dataset)
    tokens = tokens or features.is_built(features.store_path(features.store_key(parts[True])))
    prompts = zeroshot.prompts(dataset.category_names)
    encoder = features.teacher_encoder(
        lambda: load_teacher(config), config.feature_dtype, prompts, config.token_grid, tokens
    )
    return _complete(config, features.ensure(parts[tokens], dataset, encoder, config.on_bad_image))


def teacher_store_is_built(config: RunConfig, dataset: datasets.Dataset, tokens: bool) -> bool:
    """Whether :func:`teacher_store` would find what it needs."""
    stores = [parts for kind, parts in _teacher_parts(config, dataset).items() if kind or not tokens]
    return any(features.is_built(features.store_path(features.store_key(parts))) for parts in stores)


def _teacher_parts(config: RunConfig, dataset: datasets.Dataset) -> dict[bool, dict]:
    """What identifies the teacher's store with tokens (True) and the one without (False)."""
    kept = (config.feature_dtype, zeroshot.prompts(dataset.category_names), config.token_grid)
    description = describe(config)
    return {tokens: features.teacher_parts(description, dataset, *kept, tokens) for tokens in (True, False)}


def _complete(config: RunConfig, store: features.FeatureStore) -> features.FeatureStore:
    """The store. Raises StoreError if it lacks unreadable images and this run does not set on_bad_image 'skip'."""
    if store.skipped and config.on_bad_image == "error":
        listed = "\n  ".join(store.skipped[:5])
        raise features.StoreError(
            f"{store.path}: {len(store.skipped)} unreadable images were left out when it was built:\n  {listed}\n"
            "Replace them, or set on_bad_image to 'skip' here too."
        )
    return store


def describe(config: RunConfig) -> dict:
    """What identifies the teacher, without loading it."""
    how = {
        "allow_untrained": config.allow_untrained,
        "untrained_heads": config.untrained_heads,
        "precision": config.teacher_precision,
    }
    described = teachers.describe(config.teacher, source(config), config.revision)
    return described | own_code("teacher", config.teacher) | how


def load_teacher(config: RunConfig) -> teachers.Teacher:
    """The teacher of a configuration, on its device. Raises TeacherError; see :func:`kdlib.teachers.load`."""
    return teachers.load(
        config.teacher,
        config.checkpoint,
        config.revision,
        config.allow_untrained,
        str(choose(config.device)),
        config.untrained_heads,
        config.teacher_precision,
    )


def backbone_cost(config: RunConfig) -> dict:
    """The teacher's size and speed at inference, for the students that need it there; measured once per machine.

    See :func:`kdlib.evaluate.cost.teacher_cost`. Kept in runs/costs/.
    """
    key = digest([describe(config), hardware(choose(config.device)), config.timed_calls])
    path = runs_root() / "costs" / f"{config.teacher.replace(':', '.')}-{key[:16]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if (cost := read_record(path)) is None:
            from kdlib.evaluate.cost import teacher_cost

            cost = teacher_cost(load_teacher(config), config.timed_calls)
            write_json(path, cost)
    return cost


def pixel_store(config: RunConfig, dataset: datasets.Dataset, size: int = 0) -> features.FeatureStore:
    """The decoded images of one split, at ``size`` pixels a side; 0 is the size that the student reads."""
    size = size or config.image_size
    made = features.ensure(
        features.pixel_parts(dataset, size), dataset, lambda: features.pixel_encoder(size), config.on_bad_image
    )
    return _complete(config, made)
