"""What is known of published checkpoints: what they have seen of a test split."""

import json
from pathlib import Path

from kdlib import students, teachers
from kdlib.config import RunConfig
from kdlib.utils import find, read_json

LEVELS = ("none", "unknown", "images", "labels")  # from the least to the most doubt about a score
# Checkpoint -> data set -> level and reason; what is not listed is unknown.
SEEN = json.loads(Path(__file__).with_name("known.json").read_text(encoding="utf-8"))


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
    own = Path(source).is_dir()
    stated = ((read_json(Path(source) / "leakage.json") or {}) if own else SEEN.get(source, {})).get(dataset, {})
    if stated.get("level") in LEVELS and "reason" in stated:
        return stated["level"], stated["reason"]
    if not own:
        return "unknown", "nothing is recorded of this checkpoint and this data"
    return "unknown", f"a local checkpoint without level ({', '.join(LEVELS)}) and reason of {dataset} in leakage.json"
