"""Splits that can be trusted: no image is in two of them, and their ids are on disk."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdlib.data.dataset import DataError, Dataset
from kdlib.data.tree import UNREADABLE
from kdlib.files import runs_root, write_atomic

PRECEDENCE = ("test", "dev", "fit", "extra")  # an image that is in two splits stays in the first of these


def separate(splits: dict[str, Dataset], on_overlap: str = "error") -> dict[str, Dataset]:
    """The same splits, no image in two of them.

    Two images are the same when their ids or the bytes of their files are equal. With 'error' an image in two splits
    raises DataError with the names. With 'drop' it stays in the first of test, dev, fit and extra that holds it; each
    split that it is taken out of names it in ``left_out``.
    """
    twins = overlaps(splits)
    if not any(twins.values()):
        return splits
    if on_overlap == "error":
        raise DataError(
            f"{next(iter(splits.values())).tree.where}: {in_words(twins)}. Remove them, or set on_overlap to 'drop' "
            "to train without them (each result then names them)."
        )
    return {split: without(dataset, twins[split]) for split, dataset in splits.items()}


def in_words(twins: dict[str, list[tuple[str, str]]]) -> str:
    """What :func:`overlaps` found, as a clause of a message."""
    pairs = [f"{name} and {other}" for found in twins.values() for name, other in found]
    return f"{len(pairs)} images are in two splits: {'; '.join(pairs[:5])}{' ...' if len(pairs) > 5 else ''}"


def without(dataset: Dataset, twins: list[tuple[str, str]]) -> Dataset:
    """The same data set without the first image of each pair, which ``left_out`` then names."""
    if not twins:
        return dataset
    away = {name for name, _ in twins}
    kept = [row for row, name in enumerate(dataset.image_names) if name not in away]
    return replace(take(dataset, kept), left_out=dataset.left_out + tuple(twins))


def overlaps(splits: dict[str, Dataset]) -> dict[str, list[tuple[str, str]]]:
    """For each split, (its image, the same image's name in a split that comes before it)."""
    by_id: dict[str, str] = {}
    by_content: dict[tuple[int, int], list[tuple[Dataset, str]]] = defaultdict(list)
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in splits}
    for split in (name for name in PRECEDENCE if name in splits):
        dataset = splits[split]
        ids, contents = {}, []
        sums = dataset.tree.checksums(dataset.image_names)
        for number, name, (_, size, crc) in zip(dataset.ids, dataset.image_names, sums, strict=True):
            ids[number] = name
            contents.append(((size, crc), (dataset, name)))
            if number in by_id:
                found[split].append((name, by_id[number]))
                continue
            # Size and CRC-32 can agree by chance among a hundred thousand files; the bytes decide.
            others = by_content[size, crc] if size != UNREADABLE else ()
            twin = next((other for other in others if _same(dataset, name, *other)), None)
            if twin:
                found[split].append((name, twin[1]))
        by_id |= ids
        for key, entry in contents:
            by_content[key].append(entry)
    return found


def duplicates(dataset: Dataset) -> list[tuple[str, str]]:
    """(image, an earlier image of the same split with the same bytes). Results count them; they are no error."""
    found, by_content = [], defaultdict(list)
    for name, size, crc in dataset.tree.checksums(dataset.image_names):
        firsts = by_content[size, crc]
        twin = next((other for other in firsts if size != UNREADABLE and _same(dataset, name, dataset, other)), None)
        if twin is None:
            firsts.append(name)
        else:
            found.append((name, twin))
    return found


def _same(dataset: Dataset, name: str, other: Dataset, other_name: str) -> bool:
    return dataset.tree.read(name) == other.tree.read(other_name)


def take(dataset: Dataset, rows: Sequence[int]) -> Dataset:
    """The same data set with only these rows."""

    def pick(values):
        return None if values is None else tuple(values[row] for row in rows)

    return replace(
        dataset,
        ids=pick(dataset.ids),
        image_names=pick(dataset.image_names),
        labels=None if dataset.labels is None else dataset.labels[list(rows)],
        captions=pick(dataset.captions),
        categories=pick(dataset.categories),
        _fingerprint=[],
    )


def identity(ids: Sequence[str]) -> str:
    """SHA-256 of the ids, one a line: that of the file that :func:`write_ids` writes."""
    return hashlib.sha256("".join(f"{number}\n" for number in ids).encode()).hexdigest()


def write_ids(name: str, split: str, ids: Sequence[str]) -> Path:
    """runs/splits/<name>_<split>-<SHA-256>.txt with an id a line; the same ids are written once."""
    path = runs_root() / "splits" / f"{name}_{split}-{identity(ids)[:16]}.txt"
    if not path.exists():
        write_atomic(path, "".join(f"{number}\n" for number in ids))
    return path
