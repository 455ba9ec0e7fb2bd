"""The paper's claims, each with the measurement that would show it, and the rule that judges it.

The claims are in our words, after the results and conclusion of "Visual Model Distillation" (Qin and Xiao). The rules
are code: a run on the published teachers and the full data judges the same claims again. A claim about teachers or
data that a study did not use is not testable there. The rules' tools are in :mod:`kdlib.report.judging`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.report.judging import (
    CONTRADICTED,
    DATASETS,
    FEW,
    MANY,
    SUPPORTED,
    UNDECIDED,
    UNTESTABLE,
    Experiments,
    Judgement,
    by_margin,
    compared,
    ratio_of_medians,
    retained,
    together,
    told,
)
from kdlib.report.paper import SAME
from kdlib.report.scores import same_images
from kdlib.report.study_figures import epoch_seconds
from kdlib.study.file import METHODS

SIMPLE = ("projection", "bottleneck")
NETWORKS = ("resnet", "densenet")
WHO = ("student", "untrained")
NOTHING = "no such experiments"
NEARLY_ONE, TIMES_LARGER = 0.99, 7
MARGIN = 0.05  # "suffices" and "equal": within 5 % of the teacher's score, or of the other student's; of sizes too
SLOWER = 0.10  # of times: two that differ by less than a tenth count as equal


@dataclass(frozen=True)
class Claim:
    """``where``: its place in the paper; ``measure``: what would show it; ``judge(frame) -> Judgement``."""

    name: str
    claim: str
    where: str
    measure: str
    judge: Callable[[pd.DataFrame], Judgement]


# ---------------------------------------------------------------- the rules


def simple_methods_suffice(frame: pd.DataFrame) -> Judgement:
    """Projection and bottleneck keep the share 1 - MARGIN of their teacher's k-NN, and beat themselves untrained."""
    experiments, verdicts, words = Experiments(frame, "tinyimagenet"), [], []
    for teacher in experiments.teachers:
        for method, found in experiments.students(teacher, SIMPLE).items():
            share, low, high = retained(found)
            (gain,) = compared([((method, found, "student"), ("untrained", found, "untrained"))])
            # If the untrained student does as well, it suffices, but not by distillation.
            kept = by_margin(low, high, 1 - MARGIN)
            verdicts.append(UNDECIDED if kept == SUPPORTED and gain.verdict != "better" else kept)
            words.append(f"{teacher} {method} keeps {share:.2f} [{low:.2f}, {high:.2f}] of its teacher ({told(gain)})")
    return Judgement(together(verdicts), "; ".join(words) or NOTHING)


def perfect_accuracy(frame: pd.DataFrame) -> Judgement:
    """The paper's in-batch accuracy, trained beside untrained."""
    experiments, words, trained, untrained = Experiments(frame, "tinyimagenet"), [], [], []
    for teacher in experiments.teachers:
        for method, found in experiments.students(teacher, SIMPLE).items():
            values = [found[f"{who} {SAME}"].mean() if f"{who} {SAME}" in found else np.nan for who in WHO]
            if np.isfinite(values).all():
                trained.append(values[0])
                untrained.append(values[1])
                words.append(f"{teacher} {method} {values[0]:.3f}, untrained {values[1]:.3f}")
    if not trained:
        return Judgement(UNTESTABLE, NOTHING)
    learned = min(trained) >= NEARLY_ONE and max(untrained) < NEARLY_ONE
    verdict = SUPPORTED if learned else CONTRADICTED
    return Judgement(verdict, f"{SAME}: " + "; ".join(words))


def best_of(teacher: str, method: str, best: bool) -> Callable[[pd.DataFrame], Judgement]:
    """The rule that a method is the best (or the worst) of the six for a teacher on COCO at 10 epochs."""

    def judge(frame: pd.DataFrame) -> Judgement:
        found = Experiments(frame, "coco").students(teacher, METHODS, MANY)
        own = found.pop(method, None)
        results = compared([((method, own, "student"), (name, other, "student")) for name, other in found.items()]
                           if own is not None else [])  # fmt: skip
        if not results:
            return Judgement(UNTESTABLE, NOTHING)
        wanted, opposite = ("better", "worse") if best else ("worse", "better")
        seen = {result.verdict for result in results}
        if opposite in seen:  # one rival is enough
            verdict = CONTRADICTED
        elif len(results) < len(METHODS) - 1:
            verdict = UNTESTABLE
        else:
            verdict = SUPPORTED if seen == {wanted} else UNDECIDED
        return Judgement(verdict, "; ".join(told(result) for result in results))

    return judge


def attention_is_larger_for_nothing(frame: pd.DataFrame) -> Judgement:
    """Attention against projection: how many times as large, and whether it scores better."""
    verdicts, words = [], []
    for dataset in DATASETS:
        experiments = Experiments(frame, dataset)
        for teacher in experiments.teachers:
            attention, projection = (experiments(teacher, name) for name in ("attention", "projection"))
            if attention is None or projection is None:
                continue
            results = compared([(("attention", attention, "student"), ("projection", projection, "student"))])
            times = attention.student_mb.mean() / projection.student_mb.mean()
            slack = MARGIN * projection.student.mean()
            for result in results:
                # "No more accurate": better by more than the margin contradicts, at most so supports.
                no_better = SUPPORTED if result.high <= slack else CONTRADICTED if result.low > slack else UNDECIDED
                verdicts.append(together([no_better, SUPPORTED if times >= TIMES_LARGER else CONTRADICTED]))
                words.append(f"{teacher}: {times:.1f} times the size, {told(result)}")
    return Judgement(together(verdicts), "; ".join(words) or NOTHING)


def networks_gain_from_epochs(frame: pd.DataFrame) -> Judgement:
    """What ResNet and DenseNet gain from FEW to MANY epochs, beside what the others gain."""
    experiments, words, gain, others = Experiments(frame, "coco"), [], {}, []
    for teacher in experiments.teachers:
        few, many = (experiments.students(teacher, METHODS, epochs) for epochs in (FEW, MANY))
        methods = [method for method in many if method in few and same_images(many[method], few[method])]
        results = compared([
            ((f"{teacher} {method} {MANY}", many[method], "student"), (f"{FEW} epochs", few[method], "student"))
            for method in methods
        ])  # fmt: skip
        for method, result in zip(methods, results, strict=True):
            words.append(told(result))
            if method in NETWORKS:
                gain.setdefault(method, []).append(result.verdict)
            else:
                # "Do not gain" is shown by an interval that holds no gain above the margin, not by silence.
                slack = MARGIN * few[method].student.mean()
                others.append(SUPPORTED if result.high <= slack else CONTRADICTED if result.low > slack else UNDECIDED)
    if set(gain) != set(NETWORKS) or not others:
        return Judgement(UNTESTABLE, "; ".join(words) or f"needs {FEW} and {MANY} epochs of both networks and others")
    seen = {verdict for verdicts in gain.values() for verdict in verdicts}
    grown = CONTRADICTED if "worse" in seen else SUPPORTED if seen == {"better"} else UNDECIDED
    return Judgement(together([grown, *others]), "; ".join(words))


def attention_drops_on_blip(frame: pd.DataFrame) -> Judgement:
    """BLIP's attention student after MANY epochs against FEW."""
    experiments = Experiments(frame, "coco")
    few, many = (experiments("blip", "attention", epochs) for epochs in (FEW, MANY))
    if few is None or many is None or not same_images(few, many):
        return Judgement(UNTESTABLE, NOTHING)
    (result,) = compared([((f"{MANY} epochs", many, "student"), (f"{FEW} epochs", few, "student"))])
    verdict = {"worse": SUPPORTED, "better": CONTRADICTED}.get(result.verdict, UNDECIDED)
    return Judgement(verdict, told(result))


def pixels_cost_more(frame: pd.DataFrame) -> Judgement:
    """Time for a training image: the faster network on pixels against the slowest other student, by timed epochs."""
    verdicts, words = [], []
    for dataset in DATASETS:
        experiments = Experiments(frame, dataset)
        for teacher in experiments.teachers:
            # Per training image, since a study may train its networks on fewer of them.
            cost = {name: 1000 * epoch_seconds(found) / found.train_images.mean()
                    for name, found in experiments.students(teacher, METHODS).items()}  # fmt: skip
            networks = {name: times for name, times in cost.items() if name in NETWORKS}
            others = {name: times for name, times in cost.items() if name not in NETWORKS}
            if not networks or not others:
                continue
            fast = min(networks, key=lambda name: np.median(networks[name]))
            slow = max(others, key=lambda name: np.median(others[name]))
            ratio, low, high = ratio_of_medians(networks[fast], others[slow])
            if min(len(networks[fast]), len(others[slow])) < 2:  # one timed epoch has no spread
                low, high = -np.inf, np.inf
            verdicts.append(by_margin(low, high, 1 + SLOWER))
            words.append(f"{teacher}: {fast} takes {ratio:.2f} [{low:.2f}, {high:.2f}] times as long as {slow}, "
                         f"{len(networks[fast])} and {len(others[slow])} timed epochs")  # fmt: skip
    return Judgement(together(verdicts), "; ".join(words) or NOTHING)


def dino_is_the_efficient_teacher(frame: pd.DataFrame) -> Judgement:
    """Milliseconds from 32 images to embeddings with the teacher below, DINO against BEiT, a tenth apart at least."""
    experiments, times = Experiments(frame, "tinyimagenet"), {}
    for teacher in ("dino", "beit"):
        found = experiments.students(teacher, (*SIMPLE, "attention", "cbam"))
        rows = pd.concat(found.values()) if found else pd.DataFrame()
        columns = [f"image_batch_32_{name}_ms" for name in ("p10", "p50", "p90")]
        if set(columns) <= set(rows) and rows[columns].notna().all(axis=None):
            times[teacher] = rows[columns].median().tolist()
    if len(times) < 2:
        return Judgement(UNTESTABLE, "needs students of DINO and of BEiT that read their features, on the same data")
    dino, beit = times["dino"], times["beit"]
    verdict = by_margin(beit[0] / dino[2], beit[2] / dino[0], 1 + SLOWER)
    said = [f"{name} {middle:.1f} ms [{low:.1f}, {high:.1f}]"
            for name, (low, middle, high) in (("DINO", dino), ("BEiT", beit))]  # fmt: skip
    return Judgement(verdict, f"32 images, from pixels (median, p10 to p90 of the timed calls): {', '.join(said)}")


def lightweight_students_deploy(frame: pd.DataFrame) -> Judgement:
    """MB that inference needs, the lightest simple student against the lightest network."""
    verdicts, words = [], []
    for dataset in DATASETS:
        experiments = Experiments(frame, dataset)
        for teacher in experiments.teachers:
            simple, networks = (experiments.students(teacher, names).values() for names in (SIMPLE, NETWORKS))
            if not simple or not networks:
                continue
            light = min(found.deployed_mb.mean() for found in simple)
            network = min(found.deployed_mb.mean() for found in networks)
            student = min(found.student_mb.mean() for found in simple)
            verdicts.append(by_margin(network / light, network / light, 1 + MARGIN))
            words.append(f"{teacher}: {student:.2f} MB grow to {light:.1f} MB deployed, a network is {network:.1f} MB")
    return Judgement(together(verdicts), "; ".join(words) or NOTHING)


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
        "Projection and bottleneck learn Tiny ImageNet to an accuracy of 1.00.",
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
        f"student MB at least {TIMES_LARGER} times the projection's, no more than {MARGIN:.0%} better",
        attention_is_larger_for_nothing,
    ),
    Claim(
        "networks gain from epochs",
        "ResNet and DenseNet gain from 10 epochs over 5; the other students do not.",
        "its results on COCO, Figure 1",
        f"10 against 5 epochs, same images, Holm-corrected: networks better, the others by less than {MARGIN:.0%}",
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
        "time a training image, teacher cached: the faster network a tenth slower than the slowest other student",
        pixels_cost_more,
    ),
    Claim(
        "DINO more efficient",
        "DINO is the more efficient teacher on Tiny ImageNet.",
        "its discussion of training time",
        "time from 32 images to embeddings with the teacher below, p10 to p90 of the calls a tenth apart",
        dino_is_the_efficient_teacher,
    ),
    Claim(
        "lightweight students deploy",
        "Lightweight students are what to deploy where memory is short.",
        "its conclusion",
        "MB of all that inference needs, the teacher's backbone too: the lightest head 5 % lighter than any network",
        lightweight_students_deploy,
    ),
)


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Every claim: claim, in the paper, what would show it, found here, judgement."""
    lines = []
    for claim in CLAIMS:
        judgement = claim.judge(frame)
        lines.append(
            {
                "claim": claim.claim,
                "in the paper": claim.where,
                "what would show it": claim.measure,
                "found here": judgement.found,
                "judgement": judgement.judgement,
            }
        )
    return pd.DataFrame(lines)
