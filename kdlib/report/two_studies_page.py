"""The parts of the comparison of two studies, one function each, for the notebook compare."""

from pathlib import Path

import pandas as pd

from kdlib.evaluate.uncertainty import LEVEL
from kdlib.files import reports_root
from kdlib.report import display, study_figures
from kdlib.report.one_study import BRACKETS
from kdlib.report.two_studies import DOWN, KEY, UP, Side, differences, read, unmatched


def side(name: str) -> Side:
    """A report by its name below reports/, or by its folder."""
    folder = Path(name)
    return read(folder if folder.is_dir() else reports_root() / name)


def head(first: Side, second: Side, name: str) -> None:
    """What A and B are; the page's files go to the report ``name``."""
    display.begin(reports_root() / name, f"A: study '{first.name}', B: study '{second.name}'. {BRACKETS}.")
    lines = []
    for letter, one in (("A", first), ("B", second)):
        record = one.provenance
        lines.append(
            {
                "side": letter,
                "report": one.name,
                "title": record["study"].get("title", ""),
                "experiments with a result": f"{(one.rows.outcome == 'ok').sum()} of {len(one.rows)}",
                "commit": ", ".join(dict.fromkeys(entry["commit"] for entry in record["versions"])),
                "hardware": ", ".join(dict.fromkeys(f"{e['name']}, {e['device']}" for e in record["hardware"])),
                "finished": f"{record['from']} to {record['to']}" if record["from"] else "",
            }
        )
    display.table(pd.DataFrame(lines), "What is compared", False, kind="prose")


def moved(found: pd.DataFrame) -> None:
    """How many scores moved, which, and all of them."""
    if found.empty:
        display.notice("The two have no student in common.")
        return
    judged = found[found.moved != ""]
    counts = {name: int((judged.moved == name).sum()) for name in (UP, DOWN)}
    display.words(
        f"{sum(counts.values())} of {len(judged)} scores moved from A to B beyond the {100 * LEVEL:.0f} % interval of "
        f"their difference: {counts[UP]} up, {counts[DOWN]} down. Where nothing changed but images or seeds, about "
        f"{(1 - LEVEL) * len(judged):.0f} would; p is corrected for that (Holm, within a teacher and data set)."
    )
    kinds = found.interval.value_counts().to_dict()
    display.words(
        f"Intervals: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}. Paired: both were scored on the "
        "same test images, which are resampled alike; unpaired: on different ones."
    )
    if len(judged) < len(found):
        display.notice(f"{len(found) - len(judged)} scores cannot be judged: see the last column.")
    shown = found[KEY].copy()
    for letter in "ab":
        shown[letter.upper()] = [_score(row, letter) for row in found.to_dict("records")]
    shown["B − A"] = [
        f"{row.difference:+.3f}" + (f" [{row.low:+.3f}, {row.high:+.3f}]" if pd.notna(row.low) else "")
        if pd.notna(row.difference)
        else ""
        for row in found.itertuples()
    ]
    shown["p, Holm"] = [f"{p:.3f}" if pd.notna(p) else "" for p in found.p_holm]
    shown["moved"], shown["interval"] = found.moved, found.interval
    display.table(shown, "Scores, those that moved first", False, name="compare", kind="prose")


def _score(row: dict, letter: str) -> str:
    low, high = row[f"{letter}_low"], row[f"{letter}_high"]
    return f"{row[letter]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if pd.notna(low) else "")


def picture(found: pd.DataFrame) -> None:
    """Score of B against score of A."""
    points = found[found.difference.notna()]
    if len(points):
        names = [f"{p.teacher} {p.method}" for p in points[points.moved.isin((UP, DOWN))].itertuples()]
        which = ", ".join(dict.fromkeys(names)) or "none"
        alt = f"Score in B against score in A, {len(points)} students, with 95 % intervals. Moved: {which}."
        draw = lambda narrow: study_figures.one_against_other(points, narrow)  # noqa: E731
        display.figure(draw, alt, "Score in B against score in A", "one_against_other", points)


def apart(first: Side, second: Side) -> None:
    """Configuration, versions, hardware, commit and data that are not the same."""
    frame = differences(first, second)
    if frame.empty:
        display.words("Nothing: configuration, versions, commit, hardware and data are the same.")
    else:
        display.table(frame, "What differs beside the scores", False, kind="prose")


def alone(first: Side, second: Side) -> None:
    """Students that only one of the two has a score of."""
    frame = unmatched(first, second)
    if frame.empty:
        display.words("None: both have scores of the same students.")
    else:
        display.table(frame, "Students that only one side has a score of", False, kind="prose")
