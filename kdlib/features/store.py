"""The feature store: a teacher's outputs on one split, computed once, then read as memory-mapped arrays.

runs/features/<key>/ holds one .npy per output and manifest.json, written last. The key is the SHA-256 of everything
that the numbers depend on. Rows are images; captions are ragged: ``caption_count`` says how many texts an image has,
``text_length`` how many tokens a text.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from kdlib.data.dataset import Dataset
from kdlib.features.build import build_store
from kdlib.features.npy import StoreError
from kdlib.files import digest, file_digest, read_json, runs_root, seal_broken, write_json


class FeatureStore:
    """A finished store, opened read-only. ``store['image_pooled']`` is a memory-mapped (rows, T) array."""

    def __init__(self, path: Path, manifest: dict):
        self.path, self.manifest = path, manifest
        self._arrays: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.manifest["arrays"]:
            raise StoreError(f"{self.path.name}: no array '{name}'; it has {', '.join(self.manifest['arrays'])}.")
        if name not in self._arrays:
            self._arrays[name] = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["arrays"]

    def __len__(self) -> int:
        return len(self.manifest["rows"])

    @property
    def ids(self) -> list[str]:
        """Ids of the images, a row each."""
        return self.manifest["ids"]

    @property
    def rows(self) -> np.ndarray:
        """Rows of the data set that this store holds: all, unless unreadable images were skipped."""
        return np.asarray(self.manifest["rows"])

    @property
    def skipped(self) -> list[str]:
        """What was wrong with each image that was left out; empty when none was."""
        return self.manifest["skipped"]

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(entry["bytes"] for entry in self.manifest["arrays"].values())

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> "FeatureStore":
        """Open a finished store.

        A file whose size or modification time is not the one that was last verified is hashed again;
        ``verify`` hashes all. Raises StoreError for an unfinished or altered store.
        """
        manifest = _manifest(path)
        if manifest is None:
            raise StoreError(f"{path}: no finished feature store here; it is built by the run that needs it.")
        if seal_broken(manifest):
            raise StoreError(
                f"{path}/manifest.json: altered since it was written. Delete the folder {path}; the next run builds it "
                "again."
            )
        del manifest["digest"]
        seen = read_json(path / "verified.json")
        known = seen = seen if isinstance(seen, dict) else {}  # a damaged one knows nothing
        for name, entry in manifest["arrays"].items():
            file = path / f"{name}.npy"
            state = [file.stat().st_size, file.stat().st_mtime_ns] if file.exists() else None
            if state is not None and seen.get(name) == state and not verify:
                continue
            if state is None or state[0] != entry["bytes"] or file_digest(file) != entry["sha256"]:
                raise StoreError(
                    f"{file}: altered or lost since it was written. Delete the folder {path}; the next run builds "
                    "it again."
                )
            seen = seen | {name: state}
        if seen != known:
            write_json(path / "verified.json", seen)
        return cls(path, manifest)


def store_key(parts: dict) -> str:
    """The name of a store: 24 hex digits over everything that its numbers depend on."""
    return digest(parts)[:24]


def store_path(key: str) -> Path:
    """The folder of a store: runs/features/<key>."""
    return runs_root() / "features" / key


def is_built(path: Path) -> bool:
    """Whether a finished store lies at ``path``. A store with a damaged manifest is not: it is built again."""
    return _manifest(path) is not None


def _manifest(path: Path) -> dict | None:
    manifest = read_json(path / "manifest.json")
    return manifest if isinstance(manifest, dict) and "arrays" in manifest else None


def ensure(parts: dict, dataset: Dataset, load_encoder: Callable, on_bad_image: str = "error") -> FeatureStore:
    """The store that ``parts`` identifies, built first where it is missing.

    ``load_encoder() -> Encoder`` is called only to build. Processes that need the same store at once build it once.
    """
    path = store_path(store_key(parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not is_built(path):
            build_store(path, parts, dataset, load_encoder, on_bad_image)
        return FeatureStore.open(path)
