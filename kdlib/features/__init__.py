"""The teacher as data: its outputs, computed once and read as arrays.

``store`` keeps and verifies them, ``encoders`` make them, ``build`` and ``npy`` write them; ``loader`` makes batches of
them, ``ahead`` behind the training step. ``views`` are crops of images, ``stacked`` are stores read as one, and
``vocabulary`` is of students that read texts themselves.
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
