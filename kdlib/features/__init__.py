"""The teacher as data: its outputs, computed once and read as arrays.

``store`` keeps and verifies them, ``encoders`` make them, ``npy`` writes them, ``loader`` makes batches of them.
"""

from kdlib.features.encoders import Encoder, pixel_encoder, pixel_parts, teacher_encoder, teacher_parts
from kdlib.features.npy import StoreError
from kdlib.features.store import CHUNK, FeatureStore, build, ensure, store_key, store_path

__all__ = [
    "CHUNK", "Encoder", "FeatureStore", "StoreError", "build", "ensure", "pixel_encoder", "pixel_parts", "store_key",
    "store_path", "teacher_encoder", "teacher_parts",
]  # fmt: skip
