"""Peak memory of building a store and training from it: 100,000 images against 10,000."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from kdlib.bench.measure import Row, Setting

TOKENS, WIDTH, BATCH = 16, 64, 256


def run(setting: Setting) -> list[Row]:
    """Peak memory at both sizes, each in a process of its own."""
    peaks = {}
    for rows in (10_000, 100_000):
        command = [sys.executable, "-m", "kdlib.bench.memory", str(setting.scratch / f"memory-{rows}"), str(rows)]
        peaks[rows] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [
        Row(
            f"peak memory of {stage} with 100,000 images",
            "the same with 10,000",
            peaks[100_000][stage] / peaks[10_000][stage],
            1.1,
            peaks[100_000][stage] / 2**20,
            peaks[10_000][stage] / 2**20,
            "MB",
            at_most=True,
            note="anonymous memory; pages of the mapped files can be dropped at any time and do not count",
        )
        for stage in ("building", "training")
    ]


def anonymous() -> int:
    """Bytes of this process that are backed by no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """``with Peak() as peak: ...; peak.bytes``: the largest :func:`anonymous`, looked at every 20 ms."""

    def __enter__(self):
        self.bytes, self._end = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._end.wait(0.02):
            self.bytes = max(self.bytes, anonymous())

    def __exit__(self, *_):
        self._end.set()
        self._thread.join()


def main() -> None:
    """One size in a process of its own: a store of attention's tokens, then an epoch from it."""
    from kdlib.bench import fullsize
    from kdlib.config import RunConfig
    from kdlib.distiller import build
    from kdlib.features.loader import Split, TrainLoader
    from kdlib.files import RunDir
    from kdlib.trainer import train

    path, rows = Path(sys.argv[1]), int(sys.argv[2])
    with Peak() as building:
        store = fullsize.random_store(path, rows, TOKENS, WIDTH, captions=0)
    time.sleep(0.1)
    config = RunConfig(study="bench", teacher="dino", dataset="tinyimagenet", method="attention", batch_size=BATCH,
                       epochs=1, device="cpu")  # fmt: skip
    split = Split("fit", store)
    with Peak() as training:
        train(build(config, split), TrainLoader(split, "tokens", BATCH, 0), config, RunDir(path / "run"), "bench")
    import shutil

    shutil.rmtree(path)
    print(json.dumps({"building": building.bytes, "training": training.bytes}))


if __name__ == "__main__":
    main()
