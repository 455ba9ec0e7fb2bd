"""Exposure: how much of a test split's data set the pretrained models have seen. Each result records it."""

from pathlib import Path

from kdlib.files import read_json
from kdlib.teachers.teacher import STANDIN

LEVELS = ("none", "unknown", "images", "labels")  # from the least to the most doubt about a score
# (checkpoint, data set) -> level and why. What is not listed is unknown.
KNOWN = {
    ("facebook/dino-vitb16", "tinyimagenet"): (
        "images",
        "pretrained without labels on ImageNet-1k, which Tiny ImageNet is cut from (arXiv:2104.14294)",
    ),
    ("facebook/dino-vitb16", "coco"): ("none", "pretrained on ImageNet-1k (arXiv:2104.14294)"),
    ("microsoft/beit-base-patch16-224-pt22k-ft22k", "tinyimagenet"): (
        "labels",
        "fine-tuned on ImageNet-22k with labels, which holds ImageNet-1k's classes (arXiv:2106.08254)",
    ),
    ("Salesforce/blip-itm-base-coco", "coco"): (
        "images",
        "fine-tuned on the training split of COCO captions by Karpathy, which holds most of val2017's images",
    ),
    ("openai/clip-vit-base-patch32", "coco"): ("unknown", "pretrained on 400 million web pairs that are not published"),
    ("facebook/dinov2-base", "tinyimagenet"): (
        "images",
        "pretrained without labels on 142 million images, ImageNet's among them (arXiv:2304.07193)",
    ),
    ("facebook/dinov2-base", "coco"): (
        "unknown",
        "pretrained on 142 million images, many of them from the web and not published (arXiv:2304.07193)",
    ),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "tinyimagenet"): (
        "images",
        "pretrained without labels on 1.7 billion images, ImageNet-1k's among them (arXiv:2508.10104)",
    ),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "coco"): (
        "unknown",
        "pretrained on 1.7 billion public images of a social network that are not published (arXiv:2508.10104)",
    ),
    ("google/siglip2-base-patch16-224", "coco"): (
        "unknown",
        "pretrained on WebLI's image-text pairs, which are not published (arXiv:2502.14786)",
    ),
    ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "coco"): (
        "unknown",
        "pretrained on LAION-2B's web pairs, in which nobody has looked for these images",
    ),
    ("torchvision", "tinyimagenet"): ("labels", "torchvision's weights were trained on ImageNet-1k with labels"),
    ("torchvision", "coco"): ("none", "torchvision's weights were trained on ImageNet-1k"),
}


def exposure(
    source: str, dataset: str, data_root: str, pretrained: bool = False, extra_images: str = ""
) -> dict[str, str]:
    """{"level": the higher of the teacher's and of the student's initial weights', one of LEVELS; "why": a reason}.

    ``source``: the teacher's checkpoint. The owner of a local one can write an exposure.json beside it, as
    ``{"coco": {"level": "none", "why": "trained on drawings"}}``. ``pretrained``: the student starts from torchvision's
    weights. ``extra_images``: what it is also distilled from, as in the configuration.
    """
    found = [_of(source, dataset, data_root)]
    if pretrained:
        found.append(_of("torchvision", dataset, data_root))
    level, why = max(found, key=lambda entry: LEVELS.index(entry[0]))
    if extra_images:
        extra = _of_extra(extra_images)
        level, why = max(level, extra[0], key=LEVELS.index), f"{why}; {extra[1]}"
    return {"level": level, "why": why}


def _of_extra(given: str) -> tuple[str, str]:
    if given.startswith("drawn:"):
        return "none", f"also distilled from {given.removeprefix('drawn:')} images drawn with a seed of their own"
    return "unknown", f"also distilled from the images of {given}: no file is one of the scored ones, copies may be"


def _of(source: str, dataset: str, data_root: str) -> tuple[str, str]:
    if data_root == "shapes":
        return "none", "the test images were drawn by this project, with a seed that no model was trained on"
    if source == STANDIN:
        return "none", "the stand-in was trained on drawings only"
    if Path(source).is_dir():
        return _stated(Path(source) / "exposure.json", dataset)
    return KNOWN.get((source, dataset), ("unknown", "nothing is recorded of this checkpoint and this data"))


def _stated(path: Path, dataset: str) -> tuple[str, str]:
    """Level and reason from a local checkpoint's exposure.json; 'unknown' where that cannot be read."""
    if not path.is_file():
        return "unknown", f"a local checkpoint without {path.name}; whoever trained it knows"
    content = read_json(path)
    entry = content.get(dataset) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or entry.get("level") not in LEVELS or not entry.get("why"):
        return "unknown", f"{path.name} says nothing of {dataset} with a level ({', '.join(LEVELS)}) and a why"
    return entry["level"], str(entry["why"])
