"""Compares ways of distilling for each teacher: each is tuned alike on dev, then scored on test."""

import dataclasses

import pandas as pd

from kdlib.evaluate.uncertainty import BETTER, OPEN, OVERRULED, WORSE, compare
from kdlib.report import display, listing, style
from kdlib.report.findings import at_the_end, teachers
from kdlib.report.one_study import Study
from kdlib.report.scores import seeds_of, summary_of

SHARE = 0.9  # of the teacher's score: how many images a method needs for it
VERDICTS = (BETTER, WORSE, OPEN, OVERRULED)  # in the order in which a sentence has them
WORDS = {BETTER: "better than", WORSE: "worse than", OPEN: f"{OPEN} from", OVERRULED: f"{OVERRULED} against"}


def tuned(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of one teacher in each method's best trial, by the score on dev after the most epochs.

    A method is a network and its losses; a trial is a variant of the study. All numbers of epochs and seeds of the best
    trial are kept.
    """
    last = part[part.epochs == part.epochs.max()]
    best = last.groupby(["method", "objective", "variant"], sort=False).dev.mean().reset_index()
    best = best.sort_values("dev", ascending=False, kind="stable").drop_duplicates(["method", "objective"])
    return part.merge(best[["method", "objective", "variant"]], on=["method", "objective", "variant"])


def images_until(part: pd.DataFrame, share: float = SHARE) -> str:
    """Images seen when the score of one method first reaches a share of its teacher's, in words."""
    means = part.groupby("images_seen")[["student", "teacher_score"]].mean()
    reached = means[means.student >= share * means.teacher_score]
    return f"{int(reached.index[0]):,}" if len(reached) else f"more than {int(means.index.max()):,}"


def comparison(part: pd.DataFrame) -> pd.DataFrame:
    """One row per method of one teacher, the best on dev first: scores, and images until 90 % of the teacher's.

    'first − this': the difference of the first row and this one with its interval; the verdicts are Holm-corrected.
    """
    kept = tuned(part)
    groups = dict(iter(kept.groupby(["method", "objective"], sort=False)))
    last = {key: group[group.epochs == kept.epochs.max()] for key, group in groups.items()}
    order = sorted(last, key=lambda key: -last[key].dev.mean())
    sides = {key: seeds_of(last[key], "student", "") for key in order}
    pairs = [("first", " ".join(key), *sides[order[0]], *sides[key]) for key in order[1:]]
    found = [None, *compare(pairs)]
    lines = []
    for key, result in zip(order, found, strict=True):
        group, score = last[key], summary_of(last[key])
        lines.append(
            {
                "network": key[0],
                "losses": key[1],
                "trials": part[(part.method == key[0]) & (part.objective == key[1])].variant.nunique(),
                "learning rate": group.lr_peak.iloc[0],
                "dev": group.dev.mean(),
                "score": score.text(3),
                "share of the teacher": score.mean / group.teacher_score.mean(),
                f"images until {SHARE:.0%}": images_until(groups[key]),
                "first − this": f"{result.difference:+.3f} [{result.low:+.3f}, {result.high:+.3f}]" if result else "",
                "verdict on the first": result.verdict if result else "",
            }
        )
    return pd.DataFrame(lines)


def answer(table: pd.DataFrame) -> str:
    """Which method for a teacher, in words: the method that is best on dev, and its verdicts against the others."""
    first, others = table.iloc[0], table.iloc[1:].groupby("verdict on the first").losses.apply(", ".join)
    share = f"{100 * first['share of the teacher']:.0f} % of the teacher's score"
    told = "; ".join(f"{WORDS[verdict]} {others[verdict]}" for verdict in VERDICTS if verdict in others)
    return f"{first.losses} is best on dev and has {share} on test" + (f". On test it is {told}." if told else ".")


def _of_teachers(rows: pd.DataFrame):
    """(teacher, dataset), and its finished rows with a score on dev whose losses use the teacher."""
    good = rows[rows.outcome == "ok"]
    good = good[good.dev.notna()] if "dev" in good else good.head(0)
    good = good[~good.objective.isin(("no_teacher", "labels", "contrastive"))]
    return good.groupby(["teacher", "dataset"], sort=False)


def chosen(study: Study) -> Study:
    """The study without the trials that dev did not choose; a method's variant is then named by its losses."""
    parts = [part for _, part in _of_teachers(study.rows)]
    others = study.rows.drop(index=[row for part in parts for row in part.index])
    kept = [tuned(part).assign(variant=lambda rows: rows.objective) for part in parts]
    return dataclasses.replace(study, rows=pd.concat([others, *kept], ignore_index=True))


def answers(study: Study) -> None:
    """The first lines of the page: which method, for each teacher."""
    said = [(_where(*which), answer(comparison(part))) for which, part in _of_teachers(study.rows)]
    listing.failures(study.rows)
    if said:
        display.sentences([("Teachers", teachers(at_the_end(study.rows))), *said])
    else:
        display.notice("No student has a score on dev, so no method can be chosen. Set 'cooldown' in the study file.")


def methods(study: Study) -> None:
    """One table per teacher."""
    for (teacher, dataset), part in _of_teachers(study.rows):
        found = comparison(part)
        name = style.score_name(part.headline.iloc[0])
        caption = f"{_where(teacher, dataset)}: {name}, {part.epochs.max()} epochs and cooldown, learning rates by dev"
        caption += f"; images: scored after {' and '.join(map(str, sorted(part.epochs.unique())))} epochs"
        file = f"methods-{teacher}-{dataset}".replace(":", ".")
        display.table(found, caption, False, name=file, kind="prose")


def trials(study: Study) -> None:
    """The score on dev of each trial, by which one was chosen: a column per learning rate.

    Where two trials of a method have one learning rate, a column per variant.
    """
    for (teacher, dataset), part in _of_teachers(study.rows):
        last = part[part.epochs == part.epochs.max()]
        last = last.assign(student=last.method + ", " + last.objective)
        alike = last.groupby(["student", "lr_peak"]).variant.nunique().max() > 1
        trial = "variant" if alike else "lr_peak"
        found = last.pivot_table("dev", "student", trial, sort=False).sort_index(axis="columns").reset_index()
        found.columns = map(str, found.columns)
        file = f"trials-{teacher}-{dataset}".replace(":", ".")
        display.table(
            found,
            f"{_where(teacher, dataset)}: score on dev, by {'variant' if alike else 'learning rate'}",
            False,
            name=file,
        )


def _where(teacher: str, dataset: str) -> str:
    return f"{style.teacher_name(teacher)} on {style.dataset_name(dataset)}"
