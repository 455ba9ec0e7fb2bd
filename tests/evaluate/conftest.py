"""Small splits of made features, for tests that need no teacher."""

from pathlib import Path

import numpy as np
import pytest

from kdlib.features import Features
from kdlib.loader import Split


def features(arrays: dict[str, np.ndarray]) -> Features:
    ids = list(map(str, range(len(arrays["image_pooled"]))))
    facts = {"logit_scale": 10.0}
    return Features(Path("made"), arrays, ids, np.arange(len(ids)), skipped=[], facts=facts, seconds=0.0)


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="session")
def pairs() -> dict[str, Split]:
    """100 and 90 images with five captions each, which share half of what decides, and five prompts; 32 wide."""
    splits = {}
    for seed, (name, count) in enumerate({"fit": 100, "test": 90}.items()):
        image, noise = normal(count, 32, seed=seed), normal(5 * count, 32, seed=10 + seed)
        arrays = {"image_pooled": image, "text_pooled": image.repeat(5, axis=0) + 2 * noise}
        arrays |= {"caption_count": np.full(count, 5), "prompt_pooled": normal(5, 32, seed=20)}
        relevant = image @ arrays["prompt_pooled"].T > 6
        splits[name] = Split(features(arrays), relevant=relevant)
    return splits


@pytest.fixture(scope="session")
def classes() -> dict[str, Split]:
    """200, 40 and 100 images of ten classes; 32 wide."""
    splits = {}
    for seed, (name, count) in enumerate({"fit": 200, "dev": 40, "test": 100}.items()):
        labels = np.arange(count) % 10
        arrays = {"image_pooled": normal(10, 32, seed=9)[labels] + 2 * normal(count, 32, seed=seed)}
        splits[name] = Split(features(arrays), labels=labels)
    return splits
