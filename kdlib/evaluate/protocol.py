"""The evaluation protocol: every encoder, students and controls, gets the same scores on the same resampled images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.evaluate import fidelity, knn, linear, retrieval, zeroshot
from kdlib.evaluate.bootstrap import interval, replicate_means, replicate_medians, resamples, share_replicates
from kdlib.evaluate.metrics import cosines, unit_rows
from kdlib.loader import Reader, Split
from kdlib.machine import choose, to_device
from kdlib.students import Student
from kdlib.utils import generator

DRAWS = 20  # of an encoder that guesses; its scores are the means over them
NARROW = 16  # width of random features at most, which saves time
SIGMAS = 4.0  # by which the mean of DRAWS guesses may miss chance: two such checks fail once in 650 by accident
SIDES = ("image", "text")
Embedded = dict[str, dict[str, Tensor]]  # split -> image, text, prompt -> (rows, D)


@torch.inference_mode()
def embed(student: Student, split: Split, device="auto", batch=256) -> dict[str, Tensor]:
    """``image`` (N, D), ``image_attention`` (N, tokens), ``text`` (M, D), ``prompt`` (K, D) where they exist."""
    target, parts = choose(str(device)), {}
    student = student.to(target, memory_format=torch.channels_last).eval()
    reader = Reader(split, student.reads, student.text_reads)
    for kind in _kinds(split) if student.inputs.text else ("image",):
        for rows in torch.arange(len(split.features[f"{kind}_pooled"])).split(batch):
            if kind == "image":
                made = student.see(to_device(reader.images(rows.numpy()), target))
            else:
                made = {kind: student.read(to_device(reader.texts(rows.numpy(), kind), target))["text"]}
            for name, value in made.items():
                parts.setdefault(name, []).append(value.float().cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def embed_teacher(split: Split) -> dict[str, Tensor]:
    """The teacher's own pooled features, in the form that :func:`embed` gives a student's."""
    return {kind: torch.from_numpy(np.array(split.features[f"{kind}_pooled"])).float() for kind in _kinds(split)}


def _kinds(split: Split) -> list[str]:
    return [kind for kind in (*SIDES, "prompt") if f"{kind}_pooled" in split.features]


@dataclass
class Scores:
    values: dict[str, float] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)  # (R,) the same on each resample of the images
    queries: dict[str, np.ndarray] = field(default_factory=dict)  # one value an image, or a caption
    facts: dict = field(default_factory=dict)  # what was chosen on dev; of guesses the 'deviation' of each score

    def add(self, credits: dict[str, np.ndarray], weights: np.ndarray, owner: np.ndarray | None = None) -> None:
        """Add scores from their values per query: medians of ranks, means of others, which are shares in [0, 1] unless
        they begin with similarity. ``owner``: the image of each caption, which are the queries of t2i.
        """
        for name, values in credits.items():
            self.queries[name], of = values, owner if name.startswith("t2i") else None
            if name.endswith("_rank"):
                name = name.replace("_rank", "_median_rank")
                value, lines = np.median(values), replicate_medians(values, weights, of)
            else:
                value, lines = values.mean(), replicate_means(values, weights, of)
                if not name.startswith("similarity"):
                    lines = share_replicates(value, lines, weights.shape[1])
            self.values[name], self.replicates[name] = float(value), lines

    def rows(self) -> dict[str, list[float]]:
        """score -> [value, low, high], with its 95 % interval over the scored images."""
        return {name: [value, *interval(self.replicates[name])] for name, value in self.values.items()}

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """For a .npz file: '<prefix>/replicates/<score>' and '<prefix>/queries/<score>', float32."""
        kinds = {"replicates": self.replicates, "queries": self.queries}
        return {f"{prefix}/{kind}/{name}": x.astype(np.float32) for kind, of in kinds.items() for name, x in of.items()}


class Evaluation:
    """``Evaluation(splits, 'test').score(embedded)``; on 'dev' where something is to be chosen by the scores."""

    def __init__(self, splits: dict[str, Split], on: str = "test"):
        self.splits, self.on, self.scored = splits, on, splits[on]
        # The splits that k-NN takes its neighbours from; none where images have captions.
        self.bank = () if self.scored.has_text else ("fit",) if on == "dev" else ("fit", "dev")
        self.bank_labels = np.concatenate([splits[name].labels for name in self.bank] or [np.zeros(1, int)])
        self.needed = (*self.bank, on)  # the splits that an encoder has to embed
        self.weights = resamples(len(self.scored))  # (R, N)
        self.primary = f"knn@{min(knn.PRIMARY, len(self.bank_labels))}_top1" if self.bank else "mean_recall"

    @cached_property
    def teacher(self) -> Embedded:
        return {name: embed_teacher(self.splits[name]) for name in self.needed}

    def embed(self, student: Student, device="auto") -> Embedded:
        return {name: embed(student, self.splits[name], device) for name in self.needed}

    def score(self, embedded: Embedded) -> Scores:
        """Every score of the protocol that this data allows."""
        scores, query, reference = self.counts(embedded), embedded[self.on], self.teacher[self.on]
        if self.on == "test" and self.bank and len(self.splits["dev"]):  # the probe's penalty is chosen on dev
            parts = [(embedded[name]["image"], self.splits[name].labels) for name in self.needed]
            credits, scores.facts = linear.credits(*parts)
            scores.add(credits, self.weights)
        scores.add(fidelity.credits(query, reference, self.scored.teacher_scale), self.weights)
        scores.values["cka"], influence = fidelity.linear_cka(query["image"], reference["image"])
        # A resample holds as many images as the split, so that this is CKA + sum(weight x influence).
        lines = scores.values["cka"] + len(influence) * influence
        scores.replicates["cka"] = replicate_means(lines, self.weights).clip(0, 1)
        return scores

    def counts(self, *draws: Embedded) -> Scores:
        """The scores without a fit and without the teacher; of several draws of a guess the means, without ranks."""
        scores, relevant, queries = Scores(), self.scored.relevant, [embedded[self.on] for embedded in draws]
        credits = [self._credits(embedded) for embedded in draws]
        names = [name for name in credits[0] if len(draws) == 1 or not name.endswith("_rank")]
        each = {name: np.stack([one[name] for one in credits]) for name in names}  # (draws, queries)
        if len(draws) > 1:
            scores.facts["deviation"] = {name: float(x.mean(axis=1).std(ddof=1)) for name, x in each.items()}
        means = {name: values.mean(axis=0) for name, values in each.items()}
        scores.add(means, self.weights, None if self.bank else self.scored.owner)
        if not self.bank:
            value = float(np.mean([scores.values[name] for name in retrieval.RECALLS]))
            lines = np.mean([scores.replicates[name] for name in retrieval.RECALLS], axis=0)
            lines = share_replicates(value, lines, len(self.scored))
            scores.values[self.primary], scores.replicates[self.primary] = value, lines
        if "prompt" in queries[0] and relevant is not None and relevant.any():
            similar = [cosines(unit_rows(one["image"]), unit_rows(one["prompt"])).numpy() for one in queries]
            value = float(np.mean([zeroshot.mean_average_precision(one, relevant) for one in similar]))
            # Copies of a relevant image rank side by side and lift the precision of a resample, as a new image would
            # not: resamples give the spread (of the first query), the score the centre. NaN: none is relevant.
            lines = zeroshot.mean_average_precision(similar[0], relevant, self.weights)
            lines = (value + np.nan_to_num(lines - np.nanmean(lines))).clip(0, 1)
            scores.values["zeroshot_map"], scores.replicates["zeroshot_map"] = value, lines
        return scores

    def _credits(self, embedded: Embedded) -> dict[str, np.ndarray]:
        """Name -> one value a query: retrieval's, or k-NN's and in_batch's."""
        query = embedded[self.on]
        if not self.bank:
            return retrieval.credits(query["image"], query["text"], self.scored.owner)
        bank = torch.cat([embedded[name]["image"] for name in self.bank])
        credits = knn.credits(bank, self.bank_labels, query["image"], self.scored.labels)
        # The paper's figure for this data: each image looks for itself. Saturated, and shown as that.
        return credits | retrieval.in_batch(query["image"], query["image"])


def controls(evaluation: Evaluation, width: int) -> dict[str, Scores]:
    """The scores of each control, at the student's width. Those that only guess have no probe and no fidelity."""
    return {
        "teacher": evaluation.score(evaluation.teacher),
        "pca": evaluation.score(pca(evaluation, width)),
        "random": evaluation.counts(*(random_features(evaluation, width, draw) for draw in range(DRAWS))),
        "constant": evaluation.counts(_mapped(evaluation.teacher, lambda rows, *_: torch.ones(len(rows), width))),
        "shuffled": evaluation.counts(*(shuffled_pairs(evaluation, draw) for draw in range(DRAWS))),
    }


def pca(evaluation: Evaluation, width: int) -> Embedded:
    """The teacher's features on the first principal axes of fit, not centred; images and texts count half each."""
    fit, moments = evaluation.splits["fit"].features, 0.0  # (T, T) sum over sides of the mean of x x', unit rows x
    for features in [fit[f"{side}_pooled"] for side in SIDES if f"{side}_pooled" in fit]:
        for start in range(0, len(features), 8192):
            rows = F.normalize(torch.from_numpy(np.array(features[start : start + 8192])).double(), dim=-1)
            moments = moments + rows.T @ rows / len(features)
    axes = torch.linalg.eigh(moments).eigenvectors[:, -width:]  # (T, width)
    return _mapped(evaluation.teacher, lambda rows, *_: (F.normalize(rows.double(), dim=-1) @ axes).float())


def random_features(evaluation: Evaluation, width: int, draw: int) -> Embedded:
    """Independent normal vectors, which say nothing of their inputs."""
    seeded, width = partial(generator, 0, "random features", draw), min(width, NARROW)
    return _mapped(evaluation.teacher, lambda rows, *of: torch.randn(len(rows), width, generator=seeded(*of)))


def shuffled_pairs(evaluation: Evaluation, draw: int) -> Embedded:
    """The teacher's features with the scored images permuted, so that pairs and labels are wrong."""
    order = torch.randperm(len(evaluation.scored), generator=generator(0, "shuffled pairs", draw))
    scored = evaluation.teacher[evaluation.on]
    return evaluation.teacher | {evaluation.on: scored | {"image": scored["image"][order]}}


def _mapped(embedded: Embedded, function: Callable) -> Embedded:
    return {split: {side: function(x, split, side) for side, x in sides.items()} for split, sides in embedded.items()}


def failed_checks(evaluation: Evaluation, scored: dict[str, Scores]) -> list[str]:
    """What is wrong with the controls, a line each: a guess off its chance level, a teacher unlike itself."""
    checks = [("teacher", "similarity_cosine", 1, 1e-6), ("teacher", "similarity_kl", 0, 1e-6)]
    name = evaluation.primary if evaluation.bank else "t2i_r@10"
    sizes = np.bincount(evaluation.bank_labels)  # a guess finds large classes more often: there is no chance level
    for row in ("random", "shuffled") if sizes.max() <= 1.1 * sizes.min() else ():
        slack = SIGMAS * scored[row].facts["deviation"][name] / DRAWS**0.5 + 1e-9
        checks.append((row, name, scored["constant"].values[name], slack))
    return [
        f"{row} scores {scored[row].values[name]:.4f} in {name}, not {level:.4f} ± {slack:.1g}"
        for row, name, level, slack in checks
        if not abs(scored[row].values[name] - level) <= slack
    ]
