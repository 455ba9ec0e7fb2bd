"""The evaluation protocol: every encoder of an experiment gets the same scores, on the same images and resamples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kdlib.evaluate import fidelity, knn, linear, retrieval, zeroshot
from kdlib.evaluate.embed import teacher_features
from kdlib.evaluate.uncertainty import (
    linear_replicates,
    replicate_means,
    replicate_medians,
    resamples,
    share_replicates,
)
from kdlib.features.loader import Split


@dataclass
class Scores:
    """The scores of one encoder.

    ``values``: name -> number. ``replicates``: name -> (R,) the same number on each resample of the images.
    ``queries``: name -> one value a query, where the score is their mean (a caption's queries follow ``owner``).
    ``facts``: what was chosen on dev on the way, and 'distinct': side -> [different embeddings, all embeddings], where
    some coincide and so tie.
    """

    values: dict[str, float] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    queries: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    def add(self, credits: dict[str, np.ndarray], weights: np.ndarray, owner: np.ndarray | None = None) -> None:
        """Add scores from their values per query; ``owner``: the image of each query, where queries are captions.

        A name that ends in _rank gives the median, others the mean. Means are taken for shares in [0, 1], with the
        replicates of :func:`~kdlib.evaluate.uncertainty.share_replicates`, unless the name begins with 'similarity'.
        """
        for name, values in credits.items():
            self.queries[name] = values
            if name.endswith("_rank"):
                name = name.replace("_rank", "_median_rank")
                self.values[name] = float(np.median(values))
                self.replicates[name] = replicate_medians(values, weights, owner)
            else:
                self.values[name] = float(values.mean())
                drawn = replicate_means(values, weights, owner)
                share = not name.startswith("similarity")
                images = weights.shape[1]
                self.replicates[name] = share_replicates(self.values[name], drawn, images) if share else drawn

    def arrays(self, row: str) -> dict[str, np.ndarray]:
        """For a .npz file: '<row>/replicates/<score>' and '<row>/queries/<score>'."""
        found = {f"{row}/replicates/{name}": values.astype(np.float32) for name, values in self.replicates.items()}
        return found | {f"{row}/queries/{name}": values.astype(np.float32) for name, values in self.queries.items()}


@dataclass(frozen=True)
class Exam:
    """``Exam(splits, 'test').score(embedded)``; on 'dev' where something is to be chosen by the scores.

    ``embedded``: split -> the result of :func:`kdlib.evaluate.embed.embed`. ``probe``: whether the linear probe fits a
    logistic regression, which takes longest on wide features; ridge regression is always fitted.
    """

    splits: dict[str, Split]
    on: str
    probe: bool = True

    @property
    def scored(self) -> Split:
        """The split whose images are scored."""
        return self.splits[self.on]

    @property
    def has_text(self) -> bool:
        """Whether the scored images have captions that the teacher has read."""
        return self.scored.has_text

    @property
    def headline(self) -> str:
        """The one score that stands for an encoder."""
        if self.has_text:
            return retrieval.HEADLINE
        return knn.headline(sum(len(self.splits[name]) for name in self.bank))

    @property
    def needed(self) -> tuple[str, ...]:
        """The splits that an encoder has to embed."""
        return (self.on,) if self.has_text else (*self.bank, self.on)

    @property
    def bank(self) -> tuple[str, ...]:
        """The splits that k-NN takes its neighbours from."""
        return ("fit",) if self.on == "dev" else ("fit", "dev")

    @cached_property
    def teacher(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's own features, in the form of an encoder's."""
        return {name: teacher_features(self.splits[name]) for name in self.needed}

    @cached_property
    def weights(self) -> np.ndarray:
        """(R, N) resamples of the scored images."""
        return resamples(len(self.scored))

    def score(self, embedded: dict[str, dict[str, Tensor]]) -> Scores:
        """Every score of the protocol that this data allows."""
        scores = self.counts(embedded)
        if not self.has_text and self.on == "test":  # the probe's penalty is chosen on dev: dev is not scored by it
            self._probe(scores, embedded)
        self._fidelity(scores, embedded[self.on])
        found = {side: [len(np.unique(embedded[self.on][side], axis=0)), len(embedded[self.on][side])]
                 for side in ("image", "text") if side in embedded[self.on]}  # fmt: skip
        scores.facts["distinct"] = {side: counts for side, counts in found.items() if counts[0] < counts[1]}
        return scores

    def counts(self, embedded: dict[str, dict[str, Tensor]]) -> Scores:
        """The scores without a fit and without the teacher: retrieval, zero-shot, k-NN, in_batch."""
        scores = Scores()
        self._add(scores, self._credits(embedded))
        if self._has_categories(embedded):
            self._zeroshot(scores, [embedded[self.on]])
        return scores

    def chance(self, draws: Sequence[dict[str, dict[str, Tensor]]]) -> Scores:
        """The mean of :meth:`counts` over encoders that guess, each a draw; ranks are left out."""
        credits = [self._credits(embedded) for embedded in draws]
        means = {name: np.mean([one[name] for one in credits], axis=0) for name in credits[0]}
        scores = Scores()
        self._add(scores, {name: values for name, values in means.items() if not name.endswith("_rank")})
        if self._has_categories(draws[0]):
            self._zeroshot(scores, [embedded[self.on] for embedded in draws])
        return scores

    def _has_categories(self, embedded: dict[str, dict[str, Tensor]]) -> bool:
        relevant = self.scored.relevant
        return "prompt" in embedded[self.on] and relevant is not None and bool(relevant.any())

    def _fidelity(self, scores: Scores, query: dict[str, Tensor]) -> None:
        reference = self.teacher[self.on]
        scores.add(fidelity.credits(query, reference, self.scored.teacher_scale), self.weights)
        scores.values["cka"], influence = fidelity.linear_cka(query["image"], reference["image"])
        scores.replicates["cka"] = linear_replicates(scores.values["cka"], influence, self.weights).clip(0, 1)

    def _credits(self, embedded: dict[str, dict[str, Tensor]]) -> dict[str, np.ndarray]:
        """Name -> one value a query: retrieval's, or k-NN's and in_batch's."""
        query = embedded[self.on]
        if self.has_text:
            return retrieval.credits(query["image"], query["text"], self.scored.owner)
        bank = torch.cat([embedded[name]["image"] for name in self.bank])
        bank_labels = np.concatenate([self.splits[name].labels for name in self.bank])
        found = knn.credits(bank, bank_labels, query["image"], self.scored.labels)
        # The paper's figure for this data: each image looks for itself. Degenerate, and shown as that.
        return found | retrieval.in_batch(query["image"], query["image"])

    def _add(self, scores: Scores, credits: dict[str, np.ndarray]) -> None:
        by_caption = {name: values for name, values in credits.items() if name.startswith("t2i")}
        scores.add({name: values for name, values in credits.items() if name not in by_caption}, self.weights)
        if by_caption:
            scores.add(by_caption, self.weights, self.scored.owner)
            names = [f"{way}_r@{depth}" for way in ("i2t", "t2i") for depth in retrieval.DEPTHS]
            value = float(np.mean([scores.values[name] for name in names]))
            drawn = np.mean([scores.replicates[name] for name in names], axis=0)
            scores.values[retrieval.HEADLINE] = value
            scores.replicates[retrieval.HEADLINE] = share_replicates(value, drawn, len(self.scored))

    def _zeroshot(self, scores: Scores, queries: list[dict[str, Tensor]]) -> None:
        """Add zeroshot_map: the mean over ``queries``, the embeddings of one or several encoders, with one's spread."""
        relevant = self.scored.relevant
        similar = [zeroshot.similarities(query["image"], query["prompt"]) for query in queries]
        value = float(np.mean([zeroshot.mean_average_precision(one, relevant) for one in similar]))
        drawn = zeroshot.mean_average_precision(similar[0], relevant, self.weights)
        scores.values["zeroshot_map"] = value
        # A resample holds some images twice. Two copies of a relevant image rank side by side and lift the precision,
        # as a new image would not. So the resamples give the spread, and the score itself the centre.
        scores.replicates["zeroshot_map"] = (drawn - drawn.mean() + value).clip(0, 1)

    def _probe(self, scores: Scores, embedded: dict[str, dict[str, Tensor]]) -> None:
        given = [part for name in ("fit", "dev") for part in (embedded[name]["image"], self.splits[name].labels)]
        credits, facts = linear.credits(*given, embedded[self.on]["image"], self.scored.labels, self.probe)
        scores.add(credits, self.weights)
        scores.facts |= facts
