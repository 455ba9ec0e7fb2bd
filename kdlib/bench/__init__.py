"""Benchmarks (``kdlib bench``, ``make bench``): ratios of two things that are measured side by side in one run.

A bench is a function from a :class:`~kdlib.bench.measure.Setting` to rows. A new one is listed in BENCHES.
"""

import dataclasses
import time

import torch

from kdlib.bench import convnet, exported, forward, grid, large, memory, scoring, steps, views
from kdlib.bench.measure import Row, Setting
from kdlib.files import read_json, reports_root, write_json
from kdlib.machine import choose, hardware, versions
from kdlib.registry import Registry

BENCHES = Registry(
    "bench",
    {
        "teacher": forward.run,
        "steps": steps.run,
        "convnet": convnet.run,
        "views": views.run,
        "search": scoring.run,
        "memory": memory.run,
        "export": exported.run,
        "experiments": grid.overhead,
        "grid": grid.grid,
        "large": large.run,
    },
)

__all__ = ["BENCHES", "Row", "Setting", "run"]


def run(names: list[str], setting: Setting):
    """Run the named benches and yield their rows, which replace earlier ones in reports/bench/bench.json.

    Each row has the machine, the versions and the commit that it was measured with.
    """
    path = reports_root() / "bench" / "bench.json"
    record = read_json(path) or {"rows": []}
    torch.set_num_threads(setting.threads)
    for name in names:
        bench = BENCHES[name]
        started = time.perf_counter()
        rows = bench(setting)
        facts = {
            "bench": name,
            "seconds": time.perf_counter() - started,
            "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "images": setting.images_words,
            "hardware": hardware(choose("cpu")),
            "versions": versions(),
        }
        kept = [row for row in record["rows"] if row["bench"] != name]
        record["rows"] = kept + [dataclasses.asdict(row) | facts for row in rows]
        record["rows"].sort(key=lambda row: list(BENCHES).index(row["bench"]))
        write_json(path, record)
        yield from rows
