"""Ranks the variants of a study by their scores on dev, and refuses scores on test."""

import pandas as pd


class TuningError(ValueError):
    """Variants cannot be ranked by scores on test; the message says what to do instead."""


def ranking(frame: pd.DataFrame) -> pd.DataFrame:
    """The variants of each method, best first: method, training, and the share of the teacher's score that they keep.

    ``frame``: rows of a study with ``score_on: dev``. The share is averaged over teachers and seeds; variants that
    were not run for all teachers of the method's own training are left out, since they cannot be ranked with it.
    Raises TuningError for rows that were scored on test: the best of several on test is no measurement of it.
    """
    good = frame[frame.outcome == "ok"]
    on_test = good[good.score_on != "dev"]
    if len(on_test):
        raise TuningError(
            f"{len(on_test)} experiments of '{good.study.iloc[0]}' are scored on {on_test.score_on.iloc[0]}; nothing "
            "may be chosen by that. Set 'score_on: dev' in the study's parameters and run it again."
        )
    good = good.assign(share=good.student / good.teacher_score)
    lines = []
    for method, part in good.groupby("method", sort=False):
        all_teachers = set(part[part.variant == ""].teacher)
        for variant, experiments in part.groupby("variant", sort=False):
            if set(experiments.teacher) == all_teachers:
                shares = experiments.groupby("teacher").share.mean()
                lines.append(
                    {"method": method, "training": variant or "as it started", "share": shares.mean(), **shares}
                )
    ranked = pd.DataFrame(lines).sort_values(["method", "share"], ascending=[True, False], kind="stable")
    return ranked.reset_index(drop=True)
