"""Ratios of two things that are measured side by side in one run: ``make bench``, or ``python tests/bench [NAME ...]``.

Prints a table and writes reports/bench/bench.csv, or of some measures NAME.csv. Nothing else should run meanwhile.
--quick tries it with small sizes, whose ratios mean nothing.
"""

import os
import sys
import time

import common
import inference
import pandas as pd
import torch
import training

from kdlib.machine import choose, hardware, versions
from kdlib.utils import reports_root, write_atomic

FOLDER = reports_root() / "bench"
MEASURES = {measure.__name__: measure for measure in (
    inference.teacher, inference.features, inference.memory, inference.search, inference.export,
    training.live, training.step, training.convnet, training.workers,
)}  # fmt: skip


def main() -> None:
    asked, rows = [name for name in sys.argv[1:] if name != "--quick"], []
    if not set(asked) <= set(MEASURES):
        sys.exit(__doc__ + "".join(f"\n{name}: {measure.__doc__}" for name, measure in MEASURES.items()))
    torch.set_num_threads(common.THREADS)
    facts = {"cpu": hardware(choose("cpu"))["cpu"], "commit": versions()["commit"], "measured": time.strftime("%F")}
    for name in asked or MEASURES:
        for row in MEASURES[name]():
            rows.append({"measure": name} | row | facts)
            print("{measure}: {what}, against {against}: {ratio:.3g} (bar {bar})".format(**rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    print("\n" + table.iloc[:, :8].to_string(index=False, float_format="{:.4g}".format))
    if not common.QUICK:
        write_atomic(FOLDER / f"{'-'.join(asked) or 'bench'}.csv", table.to_csv(index=False))


if __name__ == "__main__":  # processes that this one starts import it
    os.environ |= dict.fromkeys(("KDLIB_RUNS", "KDLIB_REPORTS"), str(common.SCRATCH))
    main()
