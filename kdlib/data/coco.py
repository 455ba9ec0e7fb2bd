"""MS COCO 2017 in its official layout: train2017/, val2017/, annotations/{captions,instances}_*.json.

train2017 is cut into ``fit`` and ``dev``; val2017 is ``test``.
"""

import json
from collections import defaultdict
from pathlib import Path

from kdlib.data.dataset import DataError, Dataset, hashed_dev
from kdlib.data.tree import Tree

FOLDER = "coco"
DEV_SHARE, DEV_LARGEST = 0.1, 5000
CAPTIONS = 5
NOUNS = {int: "a whole number", str: "text"}


def load(root: str | Path, split: str) -> Dataset:
    """One of the splits fit, dev, test. ``root``: the folder, the zips, or a folder that holds either.

    dev is the 5,000 images of train2017 with the smallest SHA-1 of the image id (10 % where that is
    fewer). An image keeps its first 5 captions by annotation id. Raises DataError with file, entry and remedy.
    """
    tree = Tree(root, FOLDER)
    part = "val2017" if split == "test" else "train2017"
    files, captions = _captions(tree, part)
    categories, names = _categories(tree, part, files)
    numbers = sorted(files)
    if split in ("fit", "dev"):
        count = min(DEV_LARGEST, max(1, round(DEV_SHARE * len(numbers))))
        dev = hashed_dev([str(number) for number in numbers], count)
        numbers = [number for number in numbers if (str(number) in dev) == (split == "dev")]
    return Dataset(
        name="coco",
        split=split,
        tree=tree,
        ids=tuple(str(number) for number in numbers),
        image_names=tuple(f"{part}/{files[number]}" for number in numbers),
        captions=tuple(tuple(captions[number][:CAPTIONS]) for number in numbers),
        categories=tuple(tuple(sorted(categories[number])) for number in numbers),
        category_names=tuple(names),
    )


def _captions(tree: Tree, part: str) -> tuple[dict[int, str], dict[int, list[str]]]:
    """{image id: file name} and {image id: captions by ascending annotation id}.

    Raises DataError for a file that is not there and for an image without a caption.
    """
    record = _Record(tree, f"annotations/captions_{part}.json", ("images", "annotations"))
    files = record.by_id("images", file_name=str)
    texts = record.by_id("annotations", image_id=int, caption=str)
    captions = defaultdict(list)
    for number in sorted(texts):
        image, caption = texts[number]
        captions[image].append(" ".join(caption.split()))
    present = {name.removeprefix(f"{part}/") for name in tree.below(part)}
    unnamed = sorted(set(captions) - set(files))
    absent = sorted(file for file in files.values() if file not in present)
    if unnamed or absent:
        listed = ", ".join([*absent[:5], *[f"image id {number}" for number in unnamed[:5]]])
        raise DataError(
            f"{record.where} names {len(absent) + len(unnamed)} images that are not in {part}: "
            f"{listed}. Extract {part}.zip again, or take them out of the annotation file."
        )
    silent = sorted(files[number] for number in files if not captions[number])
    if silent:
        raise DataError(
            f"{tree.where}: {len(silent)} images of {part} have no caption in {record.name}: "
            f"{', '.join(silent[:5])}. Take the annotation file that belongs to these images."
        )
    return files, captions


def _categories(tree: Tree, part: str, files: dict[int, str]) -> tuple[dict[int, set[int]], list[str]]:
    """{image id: indices of the categories that it shows}, and the categories' names in the order of their ids."""
    record = _Record(tree, f"annotations/instances_{part}.json", ("images", "annotations", "categories"))
    names = record.by_id("categories", name=str)
    index_of = {number: index for index, number in enumerate(sorted(names))}
    shown, known = defaultdict(set), 0
    for index, image, category in record.entries("annotations", image_id=int, category_id=int):
        if category not in index_of:
            raise DataError(
                f"{record.entry('annotations', index)} is of category {category}, which the file does not define. "
                "Extract it again."
            )
        shown[image].add(index_of[category])
        known += image in files
    if files and shown and not known:
        raise DataError(
            f"{record.where}: not one of its instances is in an image of annotations/captions_{part}.json. "
            "Are the files of train2017 and val2017 interchanged? Extract them again."
        )
    return shown, [names[number] for number in sorted(names)]


class _Record:
    """An annotation file whose entries are checked as they are read; an error names file and entry."""

    def __init__(self, tree: Tree, name: str, lists: tuple[str, ...]):
        self.name, self.where = name, f"{tree.where}: {name}"
        if not tree.exists(name):
            raise DataError(
                f"{self.where} is missing. Give the folder that holds train2017, val2017 and annotations "
                "(or their zip archives), or run 'kdlib data get coco'."
            )
        try:
            content = json.loads(tree.read(name))
        except (ValueError, RecursionError) as error:  # not JSON, not text, or brackets without end
            raise DataError(f"{self.where} is not complete JSON ({error}). Extract it again.") from error
        wrong = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
        if wrong:
            raise DataError(f"{self.where} has no list {', '.join(wrong)}. Extract it again.")
        self.content = content

    def entry(self, key: str, index: int) -> str:
        """Where an entry is, in words."""
        entry = self.content[key][index]
        number = f" (id {_short(entry['id'])})" if isinstance(entry, dict) and "id" in entry else ""
        return f"{self.where}, {key}[{index}]{number}"

    def entries(self, key: str, **fields: type):
        """(index, value of each field, ...) of each entry of the list ``key``."""
        for index, entry in enumerate(self.content[key]):
            try:
                values = [entry[field] for field in fields]
            except (TypeError, KeyError, IndexError):
                values = []
            # type(), since True is an int to isinstance
            if [type(value) for value in values] != list(fields.values()) or not all(map(_is_sound, values)):
                raise DataError(f"{self.entry(key, index)}{self._wrong(entry, fields)}")
            yield index, *values

    def by_id(self, key: str, **fields: type) -> dict:
        """Id -> the value of the field, or a tuple of several; an id that is there twice is an error."""
        found, places = {}, {}
        for index, number, *values in self.entries(key, id=int, **fields):
            if number in found:
                raise DataError(
                    f"{self.entry(key, index)}: this id is there already, in {key}[{places[number]}]; what belongs to "
                    "it is open. Take one of the two out, or give it an id of its own."
                )
            found[number] = values[0] if len(values) == 1 else tuple(values)
            places[number] = index
        return found

    def _wrong(self, entry: object, fields: dict[str, type]) -> str:
        """What is wrong with an entry, and the remedy."""
        if not isinstance(entry, dict):
            return f" is {_short(entry)}, not an object. {self._remedy(entry)}"
        for field, kind in fields.items():
            if field not in entry:
                return f" has no '{field}'; it has {', '.join(sorted(entry)[:6])}. {self._remedy(entry)}"
            if type(value := entry[field]) is not kind:
                return f": {field} is {_short(value)}, not {NOUNS[kind]}. Mend the entry."
            if kind is str and not value.strip():
                return f": {field} is blank. Mend the entry, or take it out."
            if not _is_sound(value):
                return f": {field} has half a character (a lone surrogate): {_short(value)}. Mend the entry."
        raise AssertionError("this entry is sound")

    def _remedy(self, entry: object) -> str:
        swapped = ("captions", "category_id") if "captions_" in self.name else ("instances", "caption")
        if isinstance(entry, dict) and swapped[1] in entry:
            return f"This does not look like a file of {swapped[0]}: are captions and instances interchanged?"
        return "Mend the entry, or extract the file again."


def _is_sound(value: int | str) -> bool:
    """Whether a value is a number, or a text that is not blank and has no lone surrogate, which no tokenizer takes."""
    if isinstance(value, int) or value.isascii():
        return isinstance(value, int) or bool(value.strip())
    return bool(value.strip()) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _short(value: object) -> str:
    """A value as JSON, cut to what fits into a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
