"""What a study found, in at most five sentences, each made from its rows and verdicts.

A sentence speaks of the students after the most epochs that their teacher's students were trained for.
"""

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import BETTER, OPEN, WORSE
from kdlib.report.cautions import at_chance
from kdlib.report.scores import line_name
from kdlib.report.style import EXPORTED, dataset_name, short_name, teacher_name
from kdlib.report.verdicts import NO_TEACHER, stands_alone
from kdlib.sources import reads

LISTED = 3  # students that a sentence names


def findings(rows: pd.DataFrame, verdicts: pd.DataFrame) -> list[tuple[str, str]]:
    """(What it is about, the sentence), at most five; nothing where no experiment has finished."""
    last = at_the_end(rows)
    if last.empty:
        return []
    found = {
        "Teachers": teachers(last),
        "Like the teacher": kept(last, verdicts),
        "What training adds": gained(last, verdicts),
        "What a teacher adds": helped(last, verdicts),
        "Without the teacher at hand": deployed(last),
    }
    return [(name, sentence) for name, sentence in found.items() if sentence]


def at_the_end(rows: pd.DataFrame) -> pd.DataFrame:
    """The finished experiments at the most epochs of their variant, teacher and data set."""
    good = rows[rows.outcome == "ok"]
    if good.empty:
        return good
    return good[good.epochs == good.groupby(["teacher", "dataset", "variant"]).epochs.transform("max")]


def as_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, where students of variants that stand alone are methods of their own: 'resnet, standalone'."""
    alone = rows.variant.map(stands_alone).astype(bool)
    names = [
        line_name(row.method, row.variant if own else "") for row, own in zip(rows.itertuples(), alone, strict=True)
    ]
    return rows.assign(method=names, variant=rows.variant.where(~alone, ""))


def students(last: pd.DataFrame, alone: bool = False) -> pd.DataFrame:
    """A line a student of the study's own training: means over seeds, name, share of teacher.

    ``alone``: and of the variants that stand alone.
    """
    own = last[(last.variant == "") | (alone & last.variant.map(stands_alone).astype(bool))]
    numbers = ["student", "teacher_score", "student_mb", "deployed_mb"]
    keys = ["teacher", "dataset", "method", "variant", "epochs"]
    lines = own.groupby(keys, sort=False)[numbers].mean().reset_index()
    lines["name"] = [
        line_name(f"{teacher_name(line.teacher)} {line.method}", line.variant) for line in lines.itertuples()
    ]
    lines["share"] = lines.student / lines.teacher_score.where(lines.teacher_score > 0)
    return lines


def teachers(last: pd.DataFrame) -> str:
    """'CLIP 0.576 (5.0 MB) and BLIP 0.510 (4.9 MB) in mean recall on COCO; all are stand-ins ...'"""
    own, parts = last[last.variant == ""] if (last.variant == "").any() else last, []
    for (dataset, headline), part in own.groupby(["dataset", "headline"], sort=False):
        scores = part.groupby("teacher", sort=False).teacher_score.mean()
        sizes = {name: teacher_mb(group) for name, group in part.groupby("teacher", sort=False)}
        listed = _listed([
            f"{teacher_name(name)} {score:.3f}" + (f" ({sizes[name]:.1f} MB)" if np.isfinite(sizes[name]) else "")
            for name, score in scores.items()
        ])  # fmt: skip
        drawn = " (drawn shapes)" if (part.data_root == "shapes").any() else ""
        parts.append(f"{listed} in {short_name(headline)} on {dataset_name(dataset)}{drawn}")
    sources = own.groupby("teacher", sort=False).teacher_source.first()
    standins = [teacher_name(name) for name, source in sources.items() if source == "stand-in"]
    guessing = [short.removesuffix(" at chance") for short, _ in at_chance(own) if short.endswith(" at chance")]
    if guessing:
        who = f"{_listed(guessing)} score{'s' if len(guessing) == 1 else ''}"
        parts.append(f"{who} no better than chance, so its students' results say nothing about distillation")
    if not standins:
        return f"{'; '.join(parts)}."
    who = "all are" if len(standins) == len(sources) else f"{_listed(standins)} {'are' if standins[1:] else 'is a'}"
    many = "s" if standins[1:] or who == "all are" else ""
    return f"{'; '.join(parts)}; {who} stand-in{many} that this project trained."


def kept(last: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Which students cannot be told from their teacher, and how large they are where they run."""
    against = verdicts[verdicts.b == verdicts.teacher]  # and not without one, which 'alone' asks too
    lines = _judged(students(last, alone=True), against, "teacher", "alone")
    if lines.empty:
        return ""
    parts = []
    for verdict, words in ((OPEN, "not distinguishable from"), (BETTER, "better than")):
        told = False  # once for both kinds
        for kind, part in _by_kind(lines):
            own = part[part.verdict == verdict]
            if len(own):
                said = f" is {words} its teacher" if len(own) == 1 else f" are {words} their teacher"
                parts.append(f"{len(own)} of {len(part)} {kind}{'' if told else said}: {_sized(own)}")
                told = True
    if parts:
        return f"{'; '.join(parts)}."
    best = lines.loc[lines.share.idxmax()] if lines.share.notna().any() else lines.iloc[0]
    return (
        f"none of {len(lines)} students is as good as its teacher; the closest, {best['name']}, keeps "
        f"{100 * best.share:.0f} % of its score at {best.deployed_mb:.1f} MB deployed."
    )


def gained(last: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """How many students beat themselves untrained, and PCA of their teacher's features."""
    parts = []
    aside = " (variants aside)" if last.variant.map(stands_alone).any() else ""
    against = {"pca": "PCA of their teacher's features, which nobody trains", "untrained": "themselves untrained"}
    for question, words in against.items():
        lines = _judged(students(last), verdicts, question)
        if lines.empty:
            continue
        by_data = [
            f"{dataset_name(dataset)} {(part.verdict == BETTER).sum()} of {len(part)}"
            for dataset, part in lines.groupby("dataset", sort=False)
        ]
        apart = f" ({', '.join(by_data)})" if len(by_data) > 1 else ""
        worse = (lines.verdict == WORSE).sum()
        fell = f", and {worse} {'is' if worse == 1 else 'are'} worse" if worse else ""
        who = f" students{aside}" if not parts else ""
        parts.append(f"{(lines.verdict == BETTER).sum()} of {len(lines)}{who} beat {words}{apart}{fell}")
    return f"{'; '.join(parts)}." if parts else ""


def helped(last: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """What became of the networks that were also trained without a teacher."""
    without = last[last.variant == NO_TEACHER][["teacher", "dataset", "method"]].drop_duplicates()
    lines = _judged(students(last).merge(without), verdicts, "no teacher")
    if lines.empty:
        return ""
    named = {
        verdict: _listed(lines[lines.verdict == verdict].name.tolist(), LISTED)
        for verdict in (BETTER, WORSE)
        if (lines.verdict == verdict).any()
    }
    better, worse = ((lines.verdict == verdict).sum() for verdict in (BETTER, WORSE))
    said = f"a teacher makes {better} of {len(lines)} networks better than the same network trained without one"
    said += f" ({named[BETTER]})" if better else ""
    said += f", and {worse} worse ({named[WORSE]})" if worse else ""
    other = _judged(students(last), verdicts, "other labels")
    if len(other):
        better, names = (other.verdict == BETTER).sum(), last.variant[last.variant.str.startswith(f"{NO_TEACHER}_")]
        said += f"; {better} of {len(other)} are better than the variant {_listed(_variants(names))}"
    own = _judged(students(last, alone=True), verdicts[verdicts.b != verdicts.teacher], "alone")
    if len(own):
        better, worse = ((own.verdict == verdict).sum() for verdict in (BETTER, WORSE))
        named = f"{len(own)} students {_listed(_variants(own.variant))}"
        said += f"; of {named}, {better} are better than their image network without a teacher"
        said += f" and {worse} worse" if worse else ""
    return f"{said}."


def deployed(last: pd.DataFrame) -> str:
    """The best student that needs no teacher at inference, and what is exported."""
    lines = students(last, alone=True)
    alone = lines[(lines.deployed_mb - lines.student_mb).abs() < 1e-6]
    best = [
        f"{line['name']}, with {100 * line.share:.0f} % of its teacher's score at {line.deployed_mb:.1f} MB"
        for _, line in alone.sort_values("share", ascending=False).groupby("dataset", sort=False).head(1).iterrows()
    ]
    each = " on each data set" if len(best) > 1 else ""
    many = (
        f"{len(alone)} students run without the teacher, the best{each}"
        if len(alone) > 1
        else "one student runs without it"
    )
    parts = [f"{many}: {_listed(best)}"] if best else []
    files, several = [], last.seed.nunique() > 1
    for who, words in EXPORTED.items():
        for row in last[last[who].notna()].itertuples() if who in last else ():
            name = line_name(f"{teacher_name(row.teacher)} {row.method}", row.variant)
            name += f", seed {row.seed}," if several else ""
            files.append((getattr(row, f"{who}_mb"), f"{name} {words} {getattr(row, who):.3f} (before export "
                          f"{row.student:.3f}) in {getattr(row, f'{who}_mb'):.1f} MB"))  # fmt: skip
    if files:
        parts.append(f"exported: {_listed([text for _, text in sorted(files)], LISTED)}")
    else:
        parts.append("none is exported (kdlib export)")
    return f"{'; '.join(parts)}."


def teacher_mb(part: pd.DataFrame) -> float:
    """MB of the teacher of some rows; of older results what its students need beside themselves, NaN if nothing."""
    own = part[part.variant == ""]
    if "teacher_mb" in own and own.teacher_mb.notna().any():
        return float(own.teacher_mb.max())
    needed = (own.deployed_mb - own.student_mb).max() if len(own) else np.nan
    return float(needed) if needed > 1e-6 else np.nan


# ---------------------------------------------------------------- words


def _by_kind(lines: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Students by what they read of an image: heads on the teacher's features, and networks that read pixels."""
    pixels = lines.method.map(_reads_pixels).astype(bool)
    kinds = (("heads on the teacher's features", lines[~pixels]), ("networks on pixels", lines[pixels]))
    return [(name, part) for name, part in kinds if len(part)]


def _reads_pixels(method: str) -> bool:
    try:
        return reads(method) == "pixels"
    except (ImportError, AttributeError, KeyError, ValueError):  # of one's own, and not on this machine
        return False


def _judged(lines: pd.DataFrame, verdicts: pd.DataFrame, *questions: str) -> pd.DataFrame:
    """Students with the study's verdict on them; those without one are left out."""
    part = verdicts[verdicts.question.isin(questions)]
    known = {(row.teacher, row.dataset, row.a): row.verdict for row in part.itertuples()}
    keys = [(row.teacher, row.dataset, line_name(row.method, row.variant, row.epochs)) for row in lines.itertuples()]
    return lines.assign(verdict=[known.get(key) for key in keys]).dropna(subset="verdict")


def _variants(names: pd.Series) -> list[str]:
    """'with captions', each once."""
    return [f"'{name.replace('_', ' ')}'" for name in dict.fromkeys(names)]


def _sized(lines: pd.DataFrame) -> str:
    """Students with the MB that inference needs, the smallest first."""
    lines = lines.sort_values("deployed_mb", kind="stable")
    return _listed([f"{line['name']} ({line.deployed_mb:.1f} MB deployed)" for _, line in lines.iterrows()], LISTED)


def _listed(names: list[str], most: int = 99) -> str:
    """'a, b and c', or 'a, b and 4 more'."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
