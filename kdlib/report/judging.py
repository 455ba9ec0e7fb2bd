"""The tools with which a rule judges a claim of the paper: its experiments, their comparisons, the judgement.

A claim is supported, contradicted or open, or not testable here; 'verdict' is the word for a comparison of two scores.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.evaluate.uncertainty import Comparison, compare
from kdlib.report.scores import methods_of, of_the_paper, same_images, seeds_of

SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, UNTESTABLE = "open", "not testable here"
FEW, MANY = 5, 10  # the paper's numbers of epochs
DATASETS = ("tinyimagenet", "coco")
DRAWS = 1000  # of the bootstrap over what was timed


@dataclass(frozen=True)
class Judgement:
    """``found``: what was measured, in words with numbers."""

    judgement: str
    found: str


class Experiments:
    """The finished experiments with the paper's teachers on its data, without variants, by teacher, method, epochs."""

    def __init__(self, frame: pd.DataFrame, *datasets: str):
        good = of_the_paper(frame[(frame.outcome == "ok") & (frame.variant == "")])
        self.frame = good[good.dataset.isin(datasets or DATASETS)]
        self.teachers = list(dict.fromkeys(self.frame.teacher))
        self.last = self.frame.epochs.max() if len(self.frame) else MANY

    def __call__(self, teacher: str, method: str, epochs: int | None = None) -> pd.DataFrame | None:
        """The seeds of one student, by default at the most epochs; None if it was not run."""
        frame = self.frame
        epochs = epochs or self.last
        found = frame[(frame.teacher == teacher) & (frame.method == method) & (frame.epochs == epochs)]
        return found if len(found) else None

    def students(self, teacher: str, methods=(), epochs: int | None = None) -> dict[str, pd.DataFrame]:
        """Method -> its experiments, of those named (or all) that were run."""
        names = methods or methods_of(self.frame[self.frame.teacher == teacher])
        return {name: experiments for name in names if (experiments := self(teacher, name, epochs)) is not None}


Side = tuple[str, pd.DataFrame, str]  # name, experiments that differ in the seed alone, whose score


def compared(pairs: list[tuple[Side, Side]], score: str = "") -> list[Comparison]:
    """Paired bootstraps of one family, Holm-corrected; pairs that were not scored on the same images are left out."""
    pairs = [(a, b) for a, b in pairs if same_images(a[1], b[1])]
    return compare([(a[0], b[0], *seeds_of(a[1], a[2], score), *seeds_of(b[1], b[2], score)) for a, b in pairs])


def told(comparison: Comparison) -> str:
    """One comparison in words: 'cbam - attention = -0.012 [-0.020, -0.004], worse'."""
    return (
        f"{comparison.name_a} − {comparison.name_b} = {comparison.difference:+.3f} "
        f"[{comparison.low:+.3f}, {comparison.high:+.3f}], {comparison.verdict}"
    )


def retained(experiments: pd.DataFrame) -> tuple[float, float, float]:
    """Share of the teacher's headline score that a student keeps, with its interval over test images."""
    own, own_replicates = seeds_of(experiments, "student", "")
    teacher, teacher_replicates = seeds_of(experiments, "teacher", "")
    ratio = np.mean(own) / np.mean(teacher)
    shares = own_replicates.mean(axis=0) / teacher_replicates.mean(axis=0)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(ratio), float(low), float(high)


def by_margin(low: float, high: float, bar: float) -> str:
    """Supported when the whole interval is at or above the bar, contradicted when it is below."""
    return SUPPORTED if low >= bar else CONTRADICTED if high < bar else UNDECIDED


def ratio_of_medians(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Median of ``first`` over that of ``second`` with its 95 % bootstrap interval over what was timed."""
    random = np.random.default_rng(0)
    drawn = [np.median(random.choice(side, (DRAWS, len(side))), axis=1) for side in (first, second)]
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return float(np.median(first) / np.median(second)), float(low), float(high)


def together(verdicts: list[str]) -> str:
    """The judgement of a claim about several cases: contradicted if one is, else untestable or open if one is."""
    if not verdicts:
        return UNTESTABLE
    for verdict in (CONTRADICTED, UNTESTABLE, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return SUPPORTED
