"""Sets each number of the paper's Figures 1 and 2 beside ours, by the paper's definition and by the headline score."""

import pandas as pd

from kdlib.report.scores import number, paper

SAME = "in_batch@64"  # the paper's accuracy; it does not print its batch size


def threeway(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per printed number: printed, ours as the paper defines it, our headline score, why they differ."""
    lines = []
    own = frame[frame.variant == ""]
    key = ["teacher", "dataset", "method", "epochs"]
    groups = dict(iter(own.groupby(key)))
    for row in paper().itertuples():
        experiments = groups.get(tuple(getattr(row, name) for name in key), own.head(0))
        good = experiments[experiments.outcome == "ok"]
        instead = experiments.outcome.iloc[0].replace("_", " ") if len(experiments) else "not run"
        line = {
            "teacher": row.teacher,
            "dataset": row.dataset,
            "method": row.method,
            "epochs": row.epochs,
            "printed": f"{row.accuracy:.4f}" if row.outcome == "ok" else "out of memory",
            f"ours, {SAME}": instead,
            f"untrained, {SAME}": instead,
            "ours, sound": instead,
            "why they differ": "",
        }
        if len(good):
            line[f"ours, {SAME}"] = number(good, "student", SAME)
            line[f"untrained, {SAME}"] = number(good, "untrained", SAME)
            line["ours, sound"] = number(good)
            line["why they differ"] = "; ".join(reasons(row, good))
        lines.append(line)
    return pd.DataFrame(lines)


def reasons(printed, experiments: pd.DataFrame) -> list[str]:
    """Why the printed number and ours differ, a few words each. ``printed``: a row of the paper's table."""
    first = experiments.iloc[0]
    found = []
    if printed.dataset == "tinyimagenet":
        if SAME in str(first.degenerate).split():
            found.append("identity: the untrained student has it too")
        if printed.outcome != "ok":
            found.append("it ran out of memory there")
        elif printed.accuracy < 1:
            found.append("not the identity, so another measure that is not stated")
    else:
        found.append("1 of 64 there, all captions of the test set in the sound score")
        if printed.teacher == "blip":
            found.append("its BLIP heads were probably untrained")
    if first.teacher_source == "stand-in":
        found.append("stand-in teacher")
    if first.data_root == "shapes":
        found.append("drawn data")
    if first.method in ("resnet", "densenet") and first.convnet == "narrow":
        found.append("narrow network")
    return found
