"""What every encoder of an experiment is scored on: the same images, scores and resamples."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kdlib.evaluate import fidelity, knn, linear, retrieval, zeroshot
from kdlib.evaluate.embed import teacher_features
from kdlib.evaluate.uncertainty import linear_replicates, replicate_means, replicate_medians, resamples
from kdlib.features.loader import Split

HEADLINES = {True: retrieval.HEADLINE, False: f"knn@{knn.HEADLINE}_top1"}  # with text, without


@dataclass
class Scores:
    """The scores of one encoder.

    ``values``: name -> number. ``replicates``: name -> (R,) the same number on each resample of the images.
    ``queries``: name -> one value a query, where the score is their mean (a caption's queries follow ``owner``).
    ``facts``: what was chosen on dev on the way.
    """

    values: dict[str, float] = field(default_factory=dict)
    replicates: dict[str, np.ndarray] = field(default_factory=dict)
    queries: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict = field(default_factory=dict)

    def add(self, credits: dict[str, np.ndarray], weights: np.ndarray, owner: np.ndarray | None = None) -> None:
        """Scores that are means over queries; ``owner``: the image of each query, where queries are captions."""
        for name, values in credits.items():
            self.queries[name] = values
            if name.endswith("_rank"):
                name = name.replace("_rank", "_median_rank")
                self.values[name] = float(np.median(values))
                self.replicates[name] = replicate_medians(values, weights, owner)
            else:
                self.values[name] = float(values.mean())
                self.replicates[name] = replicate_means(values, weights, owner)

    def arrays(self, row: str) -> dict[str, np.ndarray]:
        """For a .npz file: '<row>/replicates/<score>' and '<row>/queries/<score>'."""
        found = {f"{row}/replicates/{name}": values.astype(np.float32) for name, values in self.replicates.items()}
        return found | {f"{row}/queries/{name}": values.astype(np.float32) for name, values in self.queries.items()}


@dataclass(frozen=True)
class Exam:
    """``Exam(splits, 'test', tau).score(embedded, scale)``; 'dev' where something is to be chosen by the scores.

    ``embedded``: split -> what :func:`kdlib.evaluate.embed.embed` gives; ``scale`` turns the encoder's cosines
    into logits.
    """

    splits: dict[str, Split]
    on: str
    tau: float

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
        return HEADLINES[self.has_text]

    @property
    def needed(self) -> tuple[str, ...]:
        """The splits that an encoder is run on."""
        return (self.on,) if self.has_text else (*self.bank, self.on)

    @property
    def bank(self) -> tuple[str, ...]:
        """k-NN's neighbours come from these."""
        return ("fit",) if self.on == "dev" else ("fit", "dev")

    @cached_property
    def teacher(self) -> dict[str, dict[str, Tensor]]:
        """The teacher's own features, in the form of an encoder's."""
        return {name: teacher_features(self.splits[name]) for name in self.needed}

    @cached_property
    def weights(self) -> np.ndarray:
        """(R, N) resamples of the scored images."""
        return resamples(len(self.scored))

    def score(self, embedded: dict[str, dict[str, Tensor]], scale: float) -> Scores:
        """Every score of the protocol that this data allows."""
        scores = Scores()
        query = embedded[self.on]
        if self.has_text:
            self._retrieval(scores, query)
            if "prompt" in query and self.scored.relevant is not None and self.scored.relevant.any():
                self._zeroshot(scores, query)
        else:
            self._classification(scores, embedded)
        reference = self.teacher[self.on]
        kept = fidelity.credits(query, reference, scale, self.scored.teacher_scale, self.tau)
        scores.add(kept, self.weights)
        scores.values["cka"], influence = fidelity.cka_influence(query["image"], reference["image"])
        scores.replicates["cka"] = linear_replicates(scores.values["cka"], influence, self.weights).clip(0, 1)
        return scores

    def _retrieval(self, scores: Scores, query: dict[str, Tensor]) -> None:
        owner = self.scored.owner
        credits = retrieval.credits(query["image"], query["text"], owner)
        by_caption = {name: values for name, values in credits.items() if name.startswith("t2i")}
        scores.add({name: values for name, values in credits.items() if name not in by_caption}, self.weights)
        scores.add(by_caption, self.weights, owner)
        names = [f"{way}_r@{depth}" for way in ("i2t", "t2i") for depth in retrieval.DEPTHS]
        scores.values[retrieval.HEADLINE] = float(np.mean([scores.values[name] for name in names]))
        scores.replicates[retrieval.HEADLINE] = np.mean([scores.replicates[name] for name in names], axis=0)

    def _zeroshot(self, scores: Scores, query: dict[str, Tensor]) -> None:
        similar = zeroshot.similarities(query["image"], query["prompt"])
        relevant = self.scored.relevant
        value = float(zeroshot.mean_average_precision(similar, relevant))
        drawn = zeroshot.mean_average_precision(similar, relevant, self.weights)
        scores.values["zeroshot_map"] = value
        # An image drawn twice stands beside itself in the ranking and lifts its precision, as no new image would:
        # the spread of the resamples is wanted, not where they lie.
        scores.replicates["zeroshot_map"] = (drawn - drawn.mean() + value).clip(0, 1)

    def _classification(self, scores: Scores, embedded: dict[str, dict[str, Tensor]]) -> None:
        query, labels = embedded[self.on]["image"], self.scored.labels
        bank = torch.cat([embedded[name]["image"] for name in self.bank])
        bank_labels = np.concatenate([self.splits[name].labels for name in self.bank])
        scores.add(knn.credits(bank, bank_labels, query, labels), self.weights)
        del bank  # the probe needs room of its own
        if self.on == "test":  # the probe's penalty is chosen on dev, so dev itself cannot be scored by it
            given = [part for name in ("fit", "dev") for part in (embedded[name]["image"], self.splits[name].labels)]
            credits, facts = linear.credits(*given, query, labels)
            scores.add(credits, self.weights)
            scores.facts |= facts
        # The study's figure for this data: each image looks for itself. Degenerate, and shown as that.
        scores.add(retrieval.in_batch(query, query), self.weights)
