"""Several stores read as one: the rows of fit, then those of the extra images, which are trained on, never scored."""

from collections.abc import Sequence

import numpy as np

from kdlib.features.store import FeatureStore


class Rows:
    """Arrays with rows of equal shape, read as if they were concatenated. Only the rows that are read are copied."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self.parts = parts
        self.starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
        self.dtype, self.shape = parts[0].dtype, (int(self.starts[-1]), *parts[0].shape[1:])
        self.nbytes = sum(part.nbytes for part in parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.concatenate(self.parts).astype(dtype or self.dtype)

    def __getitem__(self, key) -> np.ndarray:
        """``rows``, or ``(rows, column)``: rows an array of integers of any shape, or a slice."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        rows = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        which = np.searchsorted(self.starts, rows, side="right") - 1
        result = None
        for number, part in enumerate(self.parts):
            inside = which == number
            found = part[(rows[inside] - self.starts[number], *rest)]
            if result is None:
                result = np.empty((*rows.shape, *found.shape[1:]), self.dtype)
            result[inside] = found
        return result


class Stacked:
    """Feature stores read as if their rows were concatenated; an array in ``given`` replaces the stored one.

    Manifest and prompts are the first store's. The images of a store without captions have none.
    """

    def __init__(self, *stores: FeatureStore, given: dict[str, np.ndarray] | None = None):
        self.stores, self.given = stores, given or {}
        self.path, self.manifest = stores[0].path, stores[0].manifest

    def __contains__(self, name: str) -> bool:
        return name in self.stores[0]

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    @property
    def ids(self) -> list[str]:
        """Ids of the images, a row each."""
        return [name for store in self.stores for name in store.ids]

    def __getitem__(self, name: str) -> np.ndarray | Rows:
        if name in self.given:
            return self.given[name]
        if len(self.stores) == 1 or name.startswith("prompt_"):
            return self.stores[0][name]
        if name == "caption_count":
            silent = [store[name] if name in store else np.zeros(len(store), np.int32) for store in self.stores]
            return np.concatenate(silent)
        return Rows([store[name] for store in self.stores if name in store])
