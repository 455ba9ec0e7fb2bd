"""The study's claims, each with the measurement that would show it, and the rule that judges it.

The claims are in our words, after the study's results and conclusion ("Visual Model Distillation", Qin and Xiao).
The rules are code: a run on the published teachers and the full data judges the same claims again. A claim about
teachers or data that a study did not use is not testable there; what stand-ins show is marked as theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.table import methods_of, seeds_of
from kdlib.threeway import SAME
from kdlib.uncertainty import Comparison, compare

SUPPORTED, CONTRADICTED = "supported", "contradicted"
UNDECIDED, UNTESTABLE = "not distinguishable", "not testable here"
SIMPLE = ("projection", "bottleneck")
NETWORKS = ("resnet", "densenet")
MARGIN = 0.05  # "suffices" and "equal": within 5 % of the teacher's score, or of the other student's


@dataclass(frozen=True)
class Judgement:
    """``found``: what was measured, in words with numbers."""

    verdict: str
    found: str


@dataclass(frozen=True)
class Claim:
    """``where``: of the study; ``measure``: what would show it; ``judge(frame) -> Judgement``."""

    name: str
    claim: str
    where: str
    measure: str
    judge: Callable[[pd.DataFrame], Judgement]


class Cells:
    """The finished cells of a study without its variants, by teacher, method and epochs."""

    def __init__(self, frame: pd.DataFrame):
        good = frame[(frame.outcome == "ok") & (frame.variant == "")]
        self.frame = good
        self.teachers = list(dict.fromkeys(zip(good.teacher, good.dataset, strict=True)))
        self.budgets = sorted(good.epochs.unique())

    def on(self, dataset: str) -> list[str]:
        """The teachers that were run on a data set."""
        return [teacher for teacher, name in self.teachers if name == dataset]

    def __call__(self, teacher: str, method: str, epochs: int) -> pd.DataFrame | None:
        frame = self.frame
        found = frame[(frame.teacher == teacher) & (frame.method == method) & (frame.epochs == epochs)]
        return found if len(found) else None

    def methods(self, teacher: str) -> list[str]:
        return methods_of(self.frame[self.frame.teacher == teacher])


Side = tuple[str, pd.DataFrame, str]  # name, cells that differ in the seed alone, whose score


def compared(pairs: list[tuple[Side, Side]], score: str = "") -> list[Comparison]:
    """Paired bootstraps of one family, Holm-corrected."""
    return compare([(a[0], b[0], *seeds_of(a[1], a[2], score), *seeds_of(b[1], b[2], score)) for a, b in pairs])


def told(comparison: Comparison) -> str:
    """One comparison in words: 'cbam - attention = -0.012 [-0.020, -0.004], worse'."""
    return (
        f"{comparison.name_a} − {comparison.name_b} = {comparison.difference:+.3f} "
        f"[{comparison.low:+.3f}, {comparison.high:+.3f}], {comparison.verdict}"
    )


def retained(cells: pd.DataFrame) -> tuple[float, float, float]:
    """Share of the teacher's headline score that a student keeps, with its interval over test images."""
    own, own_replicates = seeds_of(cells, "student", "")
    teacher, teacher_replicates = seeds_of(cells, "teacher", "")
    ratio = np.mean(own) / np.mean(teacher)
    shares = own_replicates.mean(axis=0) / teacher_replicates.mean(axis=0)
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(ratio), float(low), float(high)


def by_margin(low: float, high: float, bar: float) -> str:
    """Supported when the whole interval is at or above the bar, contradicted when it is below."""
    return SUPPORTED if low >= bar else CONTRADICTED if high < bar else UNDECIDED


def together(verdicts: list[str]) -> str:
    """A claim about all of them: one that is contradicted decides, then one that is open."""
    if not verdicts:
        return UNTESTABLE
    for verdict in (CONTRADICTED, UNTESTABLE, UNDECIDED):
        if verdict in verdicts:
            return verdict
    return SUPPORTED


# ---------------------------------------------------------------- the rules


def simple_methods_suffice(frame: pd.DataFrame) -> Judgement:
    cells, verdicts, words = Cells(frame), [], []
    for teacher in cells.on("tinyimagenet"):
        for method in SIMPLE:
            found = cells(teacher, method, cells.budgets[-1])
            if found is None:
                continue
            share, low, high = retained(found)
            verdicts.append(by_margin(low, high, 1 - MARGIN))
            (gain,) = compared([((method, found, "student"), ("untrained", found, "untrained"))])
            words.append(f"{teacher} {method} keeps {share:.2f} [{low:.2f}, {high:.2f}] of its teacher ({told(gain)})")
    return Judgement(together(verdicts), "; ".join(words) or "no such cells")


def perfect_accuracy(frame: pd.DataFrame) -> Judgement:
    cells, words, trained, untrained = Cells(frame), [], [], []
    for teacher in cells.on("tinyimagenet"):
        for method in SIMPLE:
            found = cells(teacher, method, cells.budgets[-1])
            if found is None or f"student {SAME}" not in found:
                continue
            trained.append(found[f"student {SAME}"].mean())
            untrained.append(found[f"untrained {SAME}"].mean())
            words.append(f"{teacher} {method} {trained[-1]:.3f}, untrained {untrained[-1]:.3f}")
    if not trained:
        return Judgement(UNTESTABLE, "no such cells")
    identity = min(trained) > 0.99 and min(untrained) > 0.99
    return Judgement(CONTRADICTED if identity else UNDECIDED, f"{SAME}: " + "; ".join(words))


def best_of(teacher: str, method: str, best: bool) -> Callable[[pd.DataFrame], Judgement]:
    """The rule that a method is the best (or the worst) of all for a teacher, at the most epochs."""

    def judge(frame: pd.DataFrame) -> Judgement:
        cells = Cells(frame)
        others = [name for name in cells.methods(teacher) if name != method]
        found = cells(teacher, method, cells.budgets[-1]) if cells.budgets else None
        pairs = [
            ((method, found, "student"), (name, other, "student"))
            for name in others
            if found is not None and (other := cells(teacher, name, cells.budgets[-1])) is not None
        ]
        if not pairs:
            return Judgement(UNTESTABLE, "no such cells")
        results = compared(pairs)
        wanted, opposite = ("better", "worse") if best else ("worse", "better")
        found_verdicts = {result.verdict for result in results}
        undisputed = SUPPORTED if found_verdicts == {wanted} else UNDECIDED
        verdict = CONTRADICTED if opposite in found_verdicts else undisputed
        return Judgement(verdict, "; ".join(told(result) for result in results))

    return judge


def attention_is_larger_for_nothing(frame: pd.DataFrame) -> Judgement:
    cells, verdicts, words = Cells(frame), [], []
    for teacher, _ in cells.teachers:
        attention, projection = (cells(teacher, name, cells.budgets[-1]) for name in ("attention", "projection"))
        if attention is None or projection is None:
            continue
        times = attention.student_mb.mean() / projection.student_mb.mean()
        (result,) = compared([(("attention", attention, "student"), ("projection", projection, "student"))])
        slack = MARGIN * projection.student.mean()
        equal = SUPPORTED if -slack <= result.low and result.high <= slack else UNDECIDED
        if result.high < -slack or result.low > slack:
            equal = CONTRADICTED
        verdicts.append(together([equal, SUPPORTED if times >= 7 else CONTRADICTED]))
        words.append(f"{teacher}: {times:.1f} times the size, {told(result)}")
    return Judgement(together(verdicts), "; ".join(words) or "no such cells")


def networks_gain_from_epochs(frame: pd.DataFrame) -> Judgement:
    cells, words, gain, still = Cells(frame), [], [], []
    if len(cells.budgets) < 2:
        return Judgement(UNTESTABLE, "one number of epochs only")
    few, many = cells.budgets[0], cells.budgets[-1]
    for teacher in cells.on("coco"):
        pairs = [
            ((f"{teacher} {method} {many}", cells(teacher, method, many), "student"),
             (f"{few} epochs", cells(teacher, method, few), "student"))
            for method in cells.methods(teacher)
            if cells(teacher, method, many) is not None and cells(teacher, method, few) is not None
        ]  # fmt: skip
        for pair, result in zip(pairs, compared(pairs), strict=True):
            network = pair[0][0].split()[1] in NETWORKS
            (gain if network else still).append(result.verdict)
            words.append(told(result))
    if not gain:
        return Judgement(UNTESTABLE, "no such cells")
    if "worse" in gain or "better" in still:
        verdict = CONTRADICTED
    else:
        verdict = SUPPORTED if set(gain) == {"better"} else UNDECIDED
    return Judgement(verdict, "; ".join(words))


def attention_drops_on_blip(frame: pd.DataFrame) -> Judgement:
    cells = Cells(frame)
    few, many = (cells("blip", "attention", budget) for budget in (5, 10))
    if few is None or many is None:
        return Judgement(UNTESTABLE, "no such cells")
    (result,) = compared([(("10 epochs", many, "student"), ("5 epochs", few, "student"))])
    verdict = {"worse": SUPPORTED, "better": CONTRADICTED}.get(result.verdict, UNDECIDED)
    return Judgement(verdict, told(result))


def pixels_cost_more(frame: pd.DataFrame) -> Judgement:
    cells, verdicts, words = Cells(frame), [], []
    for teacher, _ in cells.teachers:
        seconds = {
            method: found.seconds_per_epoch.mean()
            for method in cells.methods(teacher)
            if (found := cells(teacher, method, cells.budgets[-1])) is not None
        }
        networks = [seconds[name] for name in NETWORKS if name in seconds]
        others = [value for name, value in seconds.items() if name not in NETWORKS]
        if networks and others:
            verdicts.append(SUPPORTED if min(networks) > max(others) else CONTRADICTED)
            words.append(f"{teacher}: at least {min(networks):.2f} s an epoch, the others at most {max(others):.2f} s")
    return Judgement(together(verdicts), "; ".join(words) or "no such cells")


def dino_is_the_efficient_teacher(frame: pd.DataFrame) -> Judgement:
    cells = Cells(frame).frame
    seconds = cells[cells.dataset == "tinyimagenet"].groupby("teacher").store_seconds.max()
    if not {"dino", "beit"} <= set(seconds.index):
        return Judgement(UNTESTABLE, "needs DINO and BEiT on the same data")
    words = f"features of all images: DINO {seconds.dino:.1f} s, BEiT {seconds.beit:.1f} s"
    ratio = seconds.dino / seconds.beit
    verdict = UNDECIDED if 0.9 < ratio < 1 / 0.9 else SUPPORTED if ratio < 1 else CONTRADICTED
    return Judgement(verdict, words)


def lightweight_students_deploy(frame: pd.DataFrame) -> Judgement:
    cells, verdicts, words = Cells(frame), [], []
    for teacher, _ in cells.teachers:
        simple = [cells(teacher, name, cells.budgets[-1]) for name in SIMPLE]
        networks = [cells(teacher, name, cells.budgets[-1]) for name in NETWORKS]
        simple, networks = ([found for found in part if found is not None] for part in (simple, networks))
        if not simple or not networks:
            continue
        light = min(found.deployed_mb.mean() for found in simple)
        network = min(found.deployed_mb.mean() for found in networks)
        verdicts.append(SUPPORTED if light < network else CONTRADICTED)
        student = min(found.student_mb.mean() for found in simple)
        words.append(f"{teacher}: {student:.2f} MB grow to {light:.1f} MB deployed, a network is {network:.1f} MB")
    return Judgement(together(verdicts), "; ".join(words) or "no such cells")


TABLES = "its results, Figures 1 and 2"
CLAIMS = (
    Claim(
        "simple methods suffice",
        "On Tiny ImageNet a linear projection or a bottleneck is all that a student needs.",
        "its results on Tiny ImageNet, Figure 2",
        f"k-NN of projection and bottleneck at least {1 - MARGIN:.0%} of the teacher's, the untrained student beside",
        simple_methods_suffice,
    ),
    Claim(
        "perfect accuracy",
        "Projection and bottleneck reach an accuracy of 1.00 on Tiny ImageNet.",
        "its results on Tiny ImageNet, Figure 2",
        f"{SAME} of the trained and of the untrained student: when both have it, it says nothing of distillation",
        perfect_accuracy,
    ),
    Claim(
        "CBAM best for BLIP",
        "For BLIP the CBAM student is the best of the six (at 10 epochs).",
        "its results on COCO, Figure 1",
        "mean recall of CBAM against each other student, same images, Holm-corrected",
        best_of("blip", "cbam", best=True),
    ),
    Claim(
        "projection worst for BLIP",
        "For BLIP the simple projection is the worst of the six.",
        "its results on COCO, Figure 1",
        "mean recall of projection against each other student, same images, Holm-corrected",
        best_of("blip", "projection", best=False),
    ),
    Claim(
        "attention larger, no better",
        "Attention-block students are about 7 times larger and no more accurate.",
        TABLES,
        f"student MB at least 7 times the projection's, scores within {MARGIN:.0%} of each other",
        attention_is_larger_for_nothing,
    ),
    Claim(
        "networks gain from epochs",
        "ResNet and DenseNet gain from 10 epochs over 5; the other students do not.",
        "its results on COCO, Figure 1",
        "10 against 5 epochs, each student, same images, Holm-corrected a teacher",
        networks_gain_from_epochs,
    ),
    Claim(
        "attention peaks at 5",
        "On BLIP the attention student peaks at 5 epochs and drops at 10.",
        "its results on COCO, Figure 1",
        "mean recall at 10 against 5 epochs, same images",
        attention_drops_on_blip,
    ),
    Claim(
        "pixels cost more",
        "Students that read raw pixels cost more to train.",
        "its discussion of training time",
        "seconds an epoch, teacher cached: the faster network against the slowest other student",
        pixels_cost_more,
    ),
    Claim(
        "DINO more efficient",
        "DINO is the more efficient teacher on Tiny ImageNet.",
        "its discussion of training time",
        "seconds to compute the features of all images, one tenth apart at least",
        dino_is_the_efficient_teacher,
    ),
    Claim(
        "lightweight students deploy",
        "Lightweight students are what to deploy where memory is short.",
        "its conclusion",
        "MB of all that inference needs, the teacher's backbone too: the lightest head against the lightest network",
        lightweight_students_deploy,
    ),
)


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Every claim with its verdict: claim, where, measurement, found, verdict."""
    lines = []
    for claim in CLAIMS:
        judgement = claim.judge(frame)
        lines.append(
            {
                "claim": claim.claim,
                "in the study": claim.where,
                "what would show it": claim.measure,
                "found here": judgement.found,
                "verdict": judgement.verdict,
            }
        )
    return pd.DataFrame(lines)
