"""What is known of published checkpoints: what they have seen of a test split, and what others measured of them."""

from pathlib import Path

from kdlib import students, teachers
from kdlib.config import RunConfig
from kdlib.utils import find, read_json

LEVELS = ("none", "unknown", "images", "labels")  # from the least to the most doubt about a score
SEEN = {  # (checkpoint, data set): level and reason; what is not listed is unknown
    ("facebook/dino-vitb16", "tinyimagenet"): ("images", "pretrained on ImageNet-1k's images (arXiv:2104.14294)"),
    ("facebook/dino-vitb16", "coco"): ("none", "pretrained on ImageNet-1k (arXiv:2104.14294)"),
    ("microsoft/beit-base-patch16-224-pt22k-ft22k", "tinyimagenet"): ("labels", "fine-tuned on ImageNet-22k's labels"),
    ("Salesforce/blip-itm-base-coco", "coco"): ("images", "fine-tuned on most of val2017's images and captions"),
    ("openai/clip-vit-base-patch32", "coco"): ("unknown", "pretrained on 400 million web pairs that are not published"),
    ("facebook/dinov2-base", "tinyimagenet"): ("images", "pretrained on ImageNet's images too (arXiv:2304.07193)"),
    ("facebook/dinov3-vitb16-pretrain-lvd1689m", "tinyimagenet"): ("images", "pretrained on ImageNet-1k's images too"),
    ("google/siglip2-base-patch16-224", "coco"): ("unknown", "pretrained on WebLI, not published (arXiv:2502.14786)"),
    ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "coco"): ("unknown", "pretrained on LAION-2B's web pairs"),
    ("torchvision", "tinyimagenet"): ("labels", "torchvision's weights were trained on ImageNet-1k with labels"),
    ("torchvision", "coco"): ("none", "torchvision's weights were trained on ImageNet-1k"),
}  # fmt: skip
# (checkpoint, data set, images, captions): score -> (lowest, highest) measured in public, with five captions an image.
FIGURES = {("openai/clip-vit-base-patch32", "coco", 5000, 25000): {
    "t2i_r@1": (0.3044, 0.3044), "t2i_r@5": (0.5477, 0.5477), "t2i_r@10": (0.6624, 0.6624), "i2t_r@1": (0.50, 0.52),
}}  # fmt: skip
POINT = 0.01  # how far a figure may lie from what was published


def leakage(config: RunConfig) -> dict[str, str]:
    """{"level", "reason"}: the highest level of teacher, initial weights and extra images.

    The owner of a local checkpoint can write a leakage.json beside it: {"coco": {"level": "none", "reason": "..."}}.
    """
    sources = [(config.checkpoint or find(teachers.TEACHERS, config.teacher, "teacher").DEFAULT).partition("@")[0]]
    if config.pretrained and students.class_of(config.method).reads == "pixels":
        sources.append("torchvision")
    entries = [_of(source, config.dataset, config.data_root) for source in sources]
    level, reason = max(entries, key=lambda entry: LEVELS.index(entry[0]))
    if config.extra_images:
        level = level if config.extra_images.startswith("shapes") else max(level, "unknown", key=LEVELS.index)
        reason += f"; also distilled from {config.extra_images}, of which no file is scored"
    return {"level": level, "reason": reason}


def _of(source: str, dataset: str, data_root: str) -> tuple[str, str]:
    if data_root == "shapes":
        return "none", "the test images are synthetic, of a seed that no model was trained on"
    if source == "toy":
        return "none", "the toy teacher was trained on synthetic images only"
    if not Path(source).is_dir():
        return SEEN.get((source, dataset), ("unknown", "nothing is recorded of this checkpoint and this data"))
    stated = (read_json(Path(source) / "leakage.json") or {}).get(dataset, {})
    if stated.get("level") in LEVELS and "reason" in stated:
        return stated["level"], stated["reason"]
    return "unknown", f"a local checkpoint without level ({', '.join(LEVELS)}) and reason of {dataset} in leakage.json"


def reference(config: RunConfig, source: str, images: int, texts: int, rows: dict[str, list[float]]) -> list[dict]:
    """The teacher's scores beside public figures of its checkpoint on the same test set, if there are any."""
    entries, figures = [], FIGURES.get((source.partition("@")[0], config.dataset, images, texts), {})
    for score, (low, high) in figures.items() if config.score_on == "test" else ():
        value = rows[score][0]
        met = low - POINT <= value <= high + POINT
        entries.append({"score": score, "low": low, "high": high, "value": value, "met": met})
    return entries
