"""Student + losses: batch -> (loss, named terms). All that is trained lives here, so a checkpoint has it all."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import losses
from kdlib.config import RunConfig
from kdlib.registry import Registry
from kdlib.students import Student

INITIAL_SCALE = 1 / 0.07  # CLIP's, arXiv:2103.00020, section 2.5
LARGEST_SCALE = 100.0  # likewise

# Which losses train which student; a method that is not listed gets logit matching.
OBJECTIVES = Registry(
    "objective",
    {
        "projection": ("logit_matching",),
        "bottleneck": ("logit_matching",),
        "attention": ("logit_matching", "attention_transfer"),
        "cbam": ("logit_matching", "attention_transfer"),
        "resnet": ("combined",),
        "densenet": ("combined",),
    },
)


class Distiller(nn.Module):
    """A student, its logit scale and the trained parts of its losses. ``distiller(batch) -> (loss, terms)``.

    Vision-only: image x image logits without the diagonal, and 'combined' is logit matching alone, since
    there is no text to contrast with. Vision-language: image x text. 'no_teacher' learns from the captions or
    from the labels (``classes`` of them) and never sees the teacher's images or logits.
    """

    def __init__(
        self,
        student: Student,
        objective: tuple[str, ...],
        config: RunConfig,
        teacher_scale: float,
        classes: int = 0,
    ):
        super().__init__()
        self.student, self.config, self.teacher_scale = student, config, teacher_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        text = student.spec.text
        instead = {"no_teacher": "contrastive" if text else "labels"} | ({} if text else {"combined": "logit_matching"})
        objective = tuple(instead.get(name, name) for name in objective)
        self.objective = {name: LOSSES[name] for name in objective}  # an unknown name fails here, not in training
        self._check(student, classes)
        if "labels" in objective:
            self.classifier = nn.Linear(student.spec.width, classes, bias=False)

    def _check(self, student: Student, classes: int) -> None:
        """A loss that lacks what it compares fails before training, with the remedy."""
        wanted = set(self.objective)
        if wanted & {"contrastive", "kl", "combined"} and not student.spec.text:
            raise ValueError("The objectives contrastive and kl need captions; on labelled images take logit_matching.")
        if "labels" in wanted and not classes:
            raise ValueError("The objective labels needs a data set with labels; with captions take contrastive.")
        if "attention_transfer" in wanted and student.reads != "tokens":
            raise ValueError(
                f"{type(student).__name__} has no attention map; attention_transfer is for students that read tokens."
            )

    @property
    def scale(self) -> Tensor:
        """What turns the student's cosines into logits, a scalar in (0, LARGEST_SCALE]."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """A batch of a :class:`~kdlib.features.loader.Reader` -> the loss (a scalar) and its terms by name."""
        with torch.no_grad():
            # The parameter itself is held below the limit: past it the clamped scale would have no gradient and
            # never come down again. float32's ln(100) rounds above the limit, hence the margin.
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE) - 1e-6)
        outputs = self.student(batch)
        other = "text" if self.student.spec.text else "image"
        logits = losses.similarity_logits(outputs["image"], outputs[other], self.scale)
        with torch.no_grad():
            target = losses.similarity_logits(batch["image"], batch[other], self.teacher_scale)
        terms = {}
        for make_terms in self.objective.values():
            terms |= make_terms(self, batch, outputs, logits, target)
        loss = torch.stack(list(terms.values())).sum()
        return loss, {name: term.detach() for name, term in terms.items()}


def _logit_matching(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    alone = not distiller.student.spec.text and not distiller.config.diagonal
    tau = distiller.config.tau
    return {"logit_matching": losses.logit_matching(logits, target, tau=tau, leave_out_diagonal=alone)}


def _attention_transfer(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    weight = distiller.config.attention_weight
    return {
        f"{side}_transfer": weight * losses.attention_transfer(outputs[side], batch[side])
        for side in ("image_attention", "text_attention")
        if side in outputs
    }


def _contrastive(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    positives = batch["row"][:, None] == batch["row"][None]
    return {"contrastive": distiller.config.contrastive_weight * losses.contrastive(logits, positives)}


def _kl(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    config = distiller.config
    return {"kl": config.kl_weight * losses.logit_matching(logits, target, tau=config.tau)}


def _combined(distiller: Distiller, *given) -> dict[str, Tensor]:
    return _contrastive(distiller, *given) | _kl(distiller, *given)


def _labels(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    scores = losses.similarity_logits(outputs["image"], distiller.classifier.weight, distiller.scale)
    return {"labels": F.cross_entropy(scores, batch["label"])}


# Name of a loss, as objectives use it -> what makes its named terms from a batch and the student's outputs.
LOSSES = Registry(
    "loss",
    {
        "logit_matching": _logit_matching,
        "attention_transfer": _attention_transfer,
        "contrastive": _contrastive,
        "kl": _kl,
        "combined": _combined,
        "labels": _labels,
    },
)
