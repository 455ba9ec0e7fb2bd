"""What was done to kdlib, and what it cost: ``python tests/faults`` (or ``make faults``) prints a table.

SIGKILL at random moments on one machine and on a dask cluster, power cuts after random writes, and a row for each fault
that was once found from outside, by the tests that try it (rows.py). --kills, --cluster and --cuts say how many.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import kills
import power
import rows as faults

COLUMNS = ("fault", "tries", "lost", "wrong", "message")


def power_cuts(folder: Path, cuts: int) -> list[dict]:
    """Cut, look, and run again; a row."""
    from kdlib.data import shapes

    data = str(shapes.ensure(shapes.ShapesSpec(0, 8, 3, 40, 20), root=folder / "shapes"))
    for _ in range(2):
        subprocess.run([sys.executable, power.__file__, str(folder), str(cuts), data], check=True)
    expected, lost, wrong, said = json.loads((folder / "scores.json").read_text()), 0, 0, []
    left = sorted((folder / "record-cut" / "cuts").iterdir())
    for cut in left:
        os.environ |= {"KDLIB_RUNS": str(cut / "runs"), "KDLIB_REPORTS": str(cut / "reports")}
        try:
            power.state(data)
            wrong += power.run(data) != expected
            lost += power.state(data).state != "done"
        except Exception as error:  # a dead end: what the next run cannot mend
            lost += 1
            said.append(f"{cut.name}: {type(error).__name__}: {error}")
        print(f"power cut {cut.name}: {lost} lost, {wrong} wrong", file=sys.stderr, flush=True)
    return [{"fault": "power cut", "tries": len(left), "lost": lost, "wrong": wrong, "message": "; ".join(said)[:200]}]


def main() -> int:
    """Do all of it; 1 when anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="on one machine")
    parser.add_argument("--cluster", type=int, default=50, help="kills on a dask cluster")
    parser.add_argument("--cuts", type=int, default=20, help="power cuts, of two kinds each")
    parser.add_argument(
        "--no-inputs", action="store_true", help="leave the rows of single faults out, whose tests 'make test' runs too"
    )
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        if given.kills:
            rows += kills.survive(folder / "machine", given.kills, cluster=False)
        if given.cluster:
            rows += kills.survive(folder / "cluster", given.cluster, cluster=True)
        if given.cuts:
            (folder / "power").mkdir()
            rows += power_cuts(folder / "power", given.cuts)
    if not given.no_inputs:
        rows += faults.try_all()
    print(table(rows))
    return int(any(row.get("lost") or row.get("wrong") for row in rows))


def table(rows: list[dict]) -> str:
    """The rows in columns."""
    cells = [COLUMNS, *([str(row.get(name, "")) for name in COLUMNS] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in cells)


if __name__ == "__main__":
    sys.exit(main())
