"""The teacher as data: its outputs, computed once and read as arrays.

``encoders`` computes them, ``build`` and ``npy`` write them, ``store`` opens and verifies them. ``loader`` makes
batches of them; ``ahead`` prefetches batches during the training step. ``views`` draws the augmentations, ``stacked``
reads several stores as one, ``vocabulary`` numbers the tokens for students with a text side of their own.
"""

from kdlib.features.build import build_store
from kdlib.features.encoders import (
    CHUNK,
    Encoder,
    pixel_encoder,
    pixel_parts,
    teacher_encoder,
    teacher_parts,
    view_encoder,
    view_parts,
)
from kdlib.features.npy import StoreError
from kdlib.features.store import FeatureStore, ensure, is_built, store_key, store_path

__all__ = [
    "CHUNK", "Encoder", "FeatureStore", "StoreError", "build_store", "ensure", "is_built", "pixel_encoder",
    "pixel_parts", "store_key", "store_path", "teacher_encoder", "teacher_parts",
    "view_encoder", "view_parts",
]  # fmt: skip
