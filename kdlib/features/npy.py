"""A .npy file that rows are appended to; feature stores are written with it."""

import os
from pathlib import Path

import numpy as np

HEADER = 128  # bytes reserved for the .npy header, filled in when the number of rows is known


class StoreError(Exception):
    """A store that is unfinished, altered or unsuited; the message names it and the remedy."""


class Appender:
    """A .npy file to append rows to; an existing one is cut to ``count`` rows. ``shape``: of a row."""

    def __init__(self, path: Path, dtype: str, shape: list[int], count: int):
        self.dtype, self.shape, self.count = np.dtype(dtype), list(shape), count
        self.file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - closed by close()
        self.file.truncate(self.bytes(dtype, shape, count))  # what came after the last mark is dropped
        self.file.seek(0, os.SEEK_END)

    @staticmethod
    def bytes(dtype: str, shape: list[int], count: int) -> int:
        """Size of a file of ``count`` rows."""
        return HEADER + count * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))

    def append(self, array: np.ndarray) -> None:
        """Append rows (R, ...). Raises StoreError when they are of another shape or type."""
        if list(array.shape[1:]) != self.shape or array.dtype != self.dtype:
            raise StoreError(f"Rows of shape {array.shape[1:]} do not fit into a store of {tuple(self.shape)}.")
        self.file.write(np.ascontiguousarray(array).tobytes())
        self.count += len(array)

    def flush(self) -> dict:
        """Bring the rows to the disk; returns the arguments with which :class:`Appender` continues from here."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return {"dtype": self.dtype.str, "shape": self.shape, "count": self.count}

    def close(self) -> None:
        """Close the file; rows that were not flushed may be lost."""
        self.file.close()

    def finish(self) -> None:
        """Write the header over the space reserved for it, and bring all to the disk."""
        content = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self.shape)}
        text = repr(content).encode("latin1")
        body = text + b" " * (HEADER - 11 - len(text)) + b"\n"
        self.file.seek(0)
        self.file.write(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body)
        self.flush()


def mean_row(array: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """(T,) float64 mean over the rows of (N, T), summed in float64."""
    starts = range(0, len(array), chunk)
    return sum(array[start : start + chunk].sum(axis=0, dtype=np.float64) for start in starts) / len(array)
