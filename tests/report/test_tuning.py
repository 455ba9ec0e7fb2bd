"""Parameters are chosen on dev, and nowhere else."""

import pandas as pd
import pytest

from kdlib.report import tuning


def rows(**fields) -> pd.DataFrame:
    """Two teachers; the second variant is better for both, the third was run for one alone."""
    lines = []
    for teacher, variant, student in [
        ("clip", "", 0.4), ("dino", "", 0.2), ("clip", "lr_3e-3", 0.45), ("dino", "lr_3e-3", 0.3),
        ("clip", "kl_3", 0.5),
    ]:  # fmt: skip
        line = {"study": "t", "teacher": teacher, "variant": variant, "method": "cbam", "seed": 0, "outcome": "ok"}
        lines.append(line | {"score_on": "dev", "student": student, "teacher_score": 0.5} | fields)
    return pd.DataFrame(lines)


def test_ranking__is_by_the_mean_share_over_teachers():
    found = tuning.ranking(rows())
    assert found.training.tolist() == ["lr_3e-3", "as it started"]
    assert found.share.tolist() == pytest.approx([(0.9 + 0.6) / 2, (0.8 + 0.4) / 2])


def test_ranking__refuses_scores_on_test():
    with pytest.raises(tuning.TuningError, match=r"5 experiments of 't' are scored on test.*score_on: dev"):
        tuning.ranking(rows(score_on="test"))


def test_ranking__refuses_even_one_row_of_test_among_dev():
    frame = rows()
    frame.loc[0, "score_on"] = "test"
    with pytest.raises(tuning.TuningError, match="1 experiments"):
        tuning.ranking(frame)


def test_ranking__leaves_failed_experiments_out():
    frame = rows()
    frame.loc[3, "outcome"] = "error"
    assert tuning.ranking(frame).training.tolist() == ["as it started"]
