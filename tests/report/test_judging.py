"""What a rule judges by: margins, several cases together, and the share that a student keeps."""

import numpy as np
import pytest

from kdlib.report import judging
from kdlib.report.judging import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTABLE


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.95, 0.99, SUPPORTED), (0.94, 0.96, UNDECIDED), (0.9, 0.95, UNDECIDED), (0.8, 0.9, CONTRADICTED)],
)
def test_by_margin__the_whole_interval_decides(low, high, verdict):
    assert judging.by_margin(low, high, 0.95) == verdict


def test_together__one_contradiction_decides_then_what_is_open():
    assert judging.together([]) == UNTESTABLE
    assert judging.together([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert judging.together([SUPPORTED, UNDECIDED, CONTRADICTED]) == CONTRADICTED
    assert judging.together([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert judging.together([UNTESTABLE, SUPPORTED, UNDECIDED]) == UNTESTABLE


def test_retained__is_the_share_of_the_teachers_score(made_study):
    share, low, high = judging.retained(made_study({"student": 0.6, "teacher_score": 0.8}))
    assert share == pytest.approx(0.75) and low < 0.75 < high and high - low < 0.2
    assert judging.retained(made_study({"student": 0.8, "teacher_score": 0.8})) == pytest.approx((1, 1, 1))
    several = made_study(
        {"seed": 0, "student": 0.5, "teacher_score": 0.8}, {"seed": 1, "student": 0.7, "teacher_score": 0.8}
    )
    assert judging.retained(several)[0] == pytest.approx(np.mean([0.5, 0.7]) / 0.8)
