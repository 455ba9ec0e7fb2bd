"""``make rehearsal``: the paper's study from an empty cache to its report, with everything that a network would deliver
on a loopback address in the published form, and once more with each fault of :mod:`rehearsal.faults`.

Full-size checkpoints of random weights, full-size students, every method and variant; a few hundred images, one seed,
1 and 2 epochs. Takes half an hour on two cores and about 15 GB of disk, which are given back.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rehearsal import command, faults
from rehearsal.stage import Stage, staged

from kdlib.files import project_root, runs_root
from kdlib.study.file import studies_folder

SAMPLE = project_root().parent / "shared" / "data"  # real images, where they are
FEW = {"seeds": [0], "epochs": [1, 2], "parameters": {"batch_size": 32, "warmup_steps": 10, "timed_calls": 5}}
MB, GB = 10**6, 10**9


def main(given: Sequence[str] | None = None) -> int:
    """Rehearse, print what it took, and write it to rehearsal.json; the exit code is 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="rehearsal", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=runs_root() / "rehearsal", help="where everything is put")
    parser.add_argument(
        "--keep", action="store_true", help="leave the folder; a second rehearsal writes no checkpoints"
    )
    parser.add_argument("--part", choices=["study", "faults"], help="only the study, or only the faults")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="small checkpoints and drawn images, to try it out")
    options = parser.parse_args(given)
    folder = options.folder.resolve()
    for left in ("runs", "reports", "home", "logs", "data", "published"):
        shutil.rmtree(folder / left, ignore_errors=True)
    sample = SAMPLE if SAMPLE.is_dir() and not options.small else None
    with staged(folder, full=not options.small, sample=sample) as stage:
        record = {"images": "real" if sample else "drawn", "wrong": []}
        data(stage, record)
        if options.part != "faults":
            study(stage, record, options.workers, options.small)
            write(stage, record)
        if options.part != "study":
            all_faults(stage, record, options.small)
        write(stage, record)
    show(record, folder / "rehearsal.json")
    if not options.keep:
        for left in ("runs", "home", "published", "data"):
            shutil.rmtree(folder / left, ignore_errors=True)
    return bool(record["wrong"])


def write(stage: Stage, record: dict) -> None:
    """rehearsal.json, with what each command took."""
    record["commands"] = [
        {
            "command": words,
            "code": done.code,
            "seconds": done.seconds,
            "cpu_seconds": done.cpu_seconds,
            "peak_gb": done.memory / GB,
        }
        for words, done in stage.log
    ]
    (stage.folder / "rehearsal.json").write_text(json.dumps(record, indent=1))


def data(stage: Stage, record: dict) -> None:
    """Both data sets from the site, as a user gets them."""
    for words in (("data", "get", "tinyimagenet"), ("data", "get", "coco")):
        must(record, stage.kdlib(*words), words)


def study(stage: Stage, record: dict, workers: int, small: bool) -> None:
    """The plan of paper.yaml as it stands, then all of it with few images and epochs, and the plan at full size."""
    paper = studies_folder() / "paper.yaml"
    before = stage.kdlib("run", paper, "--plan")
    must(record, before, "the plan before anything is downloaded")
    changes = FEW | ({"parameters": FEW["parameters"] | {"convnet": "narrow", "width": 16}} if small else {})
    done = stage.kdlib("run", stage.study("rehearsed", **changes), "--workers", str(workers))
    must(record, done, "the study")
    if done.code:
        return
    rows = pd.read_csv(stage.folder / "reports" / "rehearsed" / "results.csv")
    outcomes = rows.outcome.value_counts().to_dict()
    if set(outcomes) != {"ok"} or len(rows) != 72:
        record["wrong"].append(f"the study: {outcomes}")
    if not (stage.folder / "reports" / "rehearsed" / "index.html").exists():
        record["wrong"].append("the study: no report")
    copies = rows.groupby("dataset").left_out_images.max().to_dict()
    if copies.get("coco") != 1:
        record["wrong"].append(f"copies that left training: {copies}")
    after = stage.kdlib("run", paper, "--plan", "--data-root", stage.folder / "not-here")
    must(record, after, "the plan at full size")
    record |= {
        "outcomes": outcomes,
        "copies": copies,
        "images": record["images"] + f", {int(rows.train_images.max())} at most to train on",
        "study_seconds": done.seconds,
        "study_cpu_seconds": done.cpu_seconds,
        "study_peak_gb": done.memory / GB,
        "plan_before": before.output,
        "plan_full": after.output,
        "disk_gb": {
            "downloads (HF_HOME)": command.size(stage.home) / GB,
            "data": command.size(stage.runs / "data") / GB,
            "features": command.size(stage.runs / "features") / GB,
            "runs of the study": command.size(stage.runs / "rehearsed") / GB,
            "reports": command.size(stage.folder / "reports") / GB,
        },
    }


def all_faults(stage: Stage, record: dict, small: bool) -> None:
    """One student of the teacher that is concerned, with each fault and then without it."""
    rows = []
    for fault in faults.FAULTS:
        notebook = {"clip": "clip_coco", "beit": "beit_tinyimagenet"}[fault.family]
        changes = {
            "notebooks": {notebook: None},
            "methods": ["projection"],
            "epochs": [1],
            "variants": {},
            "seeds": [0],
        }
        changes |= {"by_method": {}, "parameters": FEW["parameters"] | ({"width": 16} if small else {})}
        rows.append(faults.rehearse(stage, fault, stage.study(f"with_a_fault_{fault.family}", **changes)))
        print(f"{fault.name}: {rows[-1].wrong or 'as it must be'}", flush=True)
    record["faults"] = [asdict(row) for row in rows]
    record["wrong"] += [f"{row.fault}: {row.wrong}" for row in rows if row.wrong]


def must(record: dict, done: command.Outcome, what) -> None:
    """Note a command that failed."""
    what = what if isinstance(what, str) else " ".join(what)
    print(f"{what}: exit code {done.code} after {done.seconds:.0f} s", flush=True)
    if done.code:
        record["wrong"].append(f"{what}: exit code {done.code}: {done.output[-2000:]}")


def show(record: dict, path: Path) -> None:
    """Everything that was measured, as text."""
    for entry in record["commands"]:
        took = f"{entry['seconds']:6.0f} s, processors {entry['cpu_seconds']:6.0f} s, {entry['peak_gb']:5.2f} GB"
        print(f"{took}  exit {entry['code']}  kdlib {entry['command']}")
    for row in record.get("faults", []):
        print(f"{row['fault']}: {row['wrong'] or 'as it must be'}\n    {row['message']}")
    for place, size in record.get("disk_gb", {}).items():
        print(f"{size:8.2f} GB  {place}")
    print(record.get("plan_full", ""))
    print(f"{len(record['wrong'])} things were wrong. {path}", *record["wrong"], sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
