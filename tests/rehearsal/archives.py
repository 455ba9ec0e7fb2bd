"""Small archives in the form and under the names of the official ones, and a file that says where they lie.

Cut from real data where they are at hand, else drawn. As in the published set, one training image of COCO is a copy of
one of val2017, and one is there twice.
"""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

from kdlib.data import shapes
from kdlib.data.dataset import sha1
from kdlib.data.shapes import ShapesSpec

TINY, COCO = "tiny-imagenet-200", "coco"


def make(folder: Path, sample: Path | None = None, spec: ShapesSpec | None = None) -> list[Path]:
    """Write the four archives below ``folder``, at the places that their sites have them.

    ``sample``: a folder with tiny-imagenet-200-small.zip and coco-2017-small.zip, of which two training images and one
    validation image a class are taken, and all of COCO. Without it ``spec`` says how much is drawn.
    """
    tree = folder / "tree"
    cut(sample, tree) if sample else shapes.write(tree, spec or ShapesSpec())
    (tree / TINY / "test" / "images").mkdir(parents=True)  # the official archive has images without labels, too
    shutil.copy(next((tree / TINY / "val" / "images").iterdir()), tree / TINY / "test" / "images" / "test_0.JPEG")
    plant_copies(tree / COCO)
    for part in ("train2017", "val2017"):  # and a file that nobody here reads
        (tree / COCO / "annotations" / f"person_keypoints_{part}.json").write_text('{"images": [], "annotations": []}')
    made = [
        pack(folder / "site" / f"{TINY}.zip", tree, TINY),
        pack(folder / "site" / "annotations" / "annotations_trainval2017.zip", tree / COCO, "annotations"),
        pack(folder / "site" / "zips" / "val2017.zip", tree / COCO, "val2017"),
        pack(folder / "site" / "zips" / "train2017.zip", tree / COCO, "train2017"),
    ]
    shutil.rmtree(tree)
    return made


def cut(sample: Path, tree: Path) -> None:
    """Real images: two of training and one of validation for each class of Tiny ImageNet, all of COCO's sample."""
    with zipfile.ZipFile(sample / "coco-2017-small.zip") as source:
        source.extractall(tree)
    counts: dict[str, int] = {}
    with zipfile.ZipFile(sample / f"{TINY}-small.zip") as source:
        lines = source.read(f"{TINY}/val/val_annotations.txt").decode().splitlines(keepends=True)
        firsts = {line.split("\t")[1]: line for line in reversed(lines)}
        kept = {f"{TINY}/val/images/{line.split(chr(9))[0]}" for line in firsts.values()}
        for name in sorted(source.namelist()):
            place = name.split("/")
            if "images" in place and place[1] == "train" and not name.endswith("/"):
                counts[place[2]] = counts.get(place[2], 0) + 1
                if counts[place[2]] > 2:
                    continue
            elif place[1:3] == ["val", "images"] and name not in kept:
                continue
            source.extract(name, tree)
    annotations = [line for line in lines if line in set(firsts.values())]
    (tree / TINY / "val" / "val_annotations.txt").write_text("".join(annotations))


def plant_copies(coco: Path) -> None:
    """Two more training images with captions of their own: a copy of one of val2017, and one of train2017."""
    path = coco / "annotations" / "captions_train2017.json"
    record = json.loads(path.read_text())
    last = max(note["id"] for note in record["annotations"])
    number = max(image["id"] for image in record["images"])
    for part in ("val2017", "train2017"):
        number += 1
        while sha1(str(number)) < "8":  # dev is the images with the smallest
            number += 1
        name = f"{number:012d}.jpg"
        shutil.copy(sorted((coco / part).glob("*.jpg"))[0], coco / "train2017" / name)
        record["images"].append({"id": number, "file_name": name})
        captions = [{"id": last + i + 1, "image_id": number, "caption": f"copy number {i}"} for i in range(5)]
        record["annotations"] += captions
        last += len(captions)
    path.write_text(json.dumps(record))


def pack(target: Path, root: Path, name: str) -> Path:
    """``root/name`` as a zip archive with ``name`` at its top."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.make_archive(str(target.with_suffix("")), "zip", root, name))


def manifest(path: Path, site: Path, address: str, dead: str) -> Path:
    """What $KDLIB_ARCHIVES names: at ``dead`` nobody answers, so that each download goes on at ``address``."""
    names = {"tinyimagenet": [site / f"{TINY}.zip"]}
    names["coco"] = [site / "annotations" / "annotations_trainval2017.zip"]
    names["coco"] += [site / "zips" / f"{part}.zip" for part in ("val2017", "train2017")]
    record = {
        name: [
            {
                "urls": [f"{host}/{archive.relative_to(site).as_posix()}" for host in (dead, address)],
                "bytes": archive.stat().st_size,
                "md5": hashlib.md5(archive.read_bytes()).hexdigest(),
                "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            }
            for archive in archives
        ]
        for name, archives in names.items()
    }
    path.write_text(json.dumps(record, indent=1))
    return path
