"""The distiller: a student and its losses, from a batch to (loss, named terms). It holds everything that is trained."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib import losses, projectors, students
from kdlib.config import RunConfig
from kdlib.features.loader import Split, means
from kdlib.registry import Registry
from kdlib.seeding import derive
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
        "mobilenet": ("feature_regression", "anchor_kl"),
        "vit": ("feature_regression", "anchor_kl"),
    },
)
DEFAULT_OBJECTIVE = ("logit_matching",)
# Losses in the teacher's space: they compare the projected embedding with the teacher's centred features.
IN_ITS_SPACE = {"feature_regression", "anchor_kl", "teacher_contrastive"}


class Distiller(nn.Module):
    """A student, its logit scale and the trained parts of its losses. ``distiller(batch) -> (loss, terms)``.

    With a vision-only teacher logits are image x image without the diagonal, and 'combined' is logit matching alone,
    since there is no text to contrast with. With a vision-language teacher they are image x text. 'no_teacher' is
    'contrastive' where there are captions, else 'labels' (cross-entropy over ``classes``): the teacher is no target.

    ``teacher_scale``: from the teacher's cosines to its logits. ``means``: the mean feature (T,) of each side, for
    centring; zero without.
    """

    def __init__(
        self,
        student: Student,
        objective: tuple[str, ...],
        config: RunConfig,
        teacher_scale: float,
        classes: int = 0,
        means: dict[str, Tensor] | None = None,
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
        widths = student.spec.width, student.spec.teacher_width
        self.projector = self.orthogonal = None
        if IN_ITS_SPACE & set(objective):
            self.projector = projectors.shared(*widths) if text else projectors.two_layers(*widths)
            for side in ("image", "text") if text else ("image",):
                mean = torch.zeros(student.spec.teacher_width) if means is None else means[side].clone()
                self.register_buffer(f"{side}_mean", mean)
        if "orthogonal_projection" in objective:
            self.orthogonal = projectors.orthogonal(*widths)

    def _check(self, student: Student, classes: int) -> None:
        """Raise ValueError, with the remedy, for a loss that the student or the data cannot serve."""
        wanted = set(self.objective)
        if wanted & {"contrastive", "kl", "combined"} and not student.spec.text:
            raise ValueError("The objectives contrastive and kl need captions; on labelled images take logit_matching.")
        if "labels" in wanted and not classes:
            raise ValueError("The objective labels needs a data set with labels; with captions take contrastive.")
        if "attention_transfer" in wanted and not student.attends:
            raise ValueError(
                f"{type(student).__name__} has no attention map; attention_transfer is for attention, cbam and vit."
            )

    @property
    def scale(self) -> Tensor:
        """The factor that turns the student's cosines into logits, a scalar in (0, LARGEST_SCALE]."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """A batch of a :class:`~kdlib.features.loader.Reader` -> the loss (a scalar) and its terms by name."""
        with torch.no_grad():
            # The parameter itself is held below the limit: past it the clamped scale would have no gradient and
            # never come down again. float32's ln(100) rounds above the limit, hence the margin.
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE) - 1e-6)
        outputs = self.student(batch)
        if self.projector is not None:
            outputs |= {f"{side}_projected": self.projector(outputs[side]) for side in _sides(outputs)}
        other = "text" if self.student.spec.text else "image"
        logits = losses.similarity_logits(outputs["image"], outputs[other], self.scale)
        with torch.no_grad():
            target = losses.similarity_logits(batch["image"], batch[other], self.teacher_scale)
        terms = {}
        for make_terms in self.objective.values():
            terms |= make_terms(self, batch, outputs, logits, target)
        loss = torch.stack(list(terms.values())).sum()
        return loss, {name: term.detach() for name, term in terms.items()}

    def centred(self, side: str, features: Tensor) -> Tensor:
        """The teacher's features (B, T) of one side minus the mean feature of that side."""
        return features - getattr(self, f"{side}_mean")


def _sides(outputs: dict[str, Tensor]) -> list[str]:
    return [side for side in ("image", "text") if side in outputs]


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


def _feature_regression(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    return {
        f"{side}_regression": losses.feature_regression(
            outputs[f"{side}_projected"], distiller.centred(side, batch[side])
        )
        for side in _sides(outputs)
    }


def _anchor_kl(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    config = distiller.config
    terms = {}
    for side in _sides(outputs):
        teacher, anchors = (distiller.centred(side, batch[name]) for name in (side, f"{side}_anchors"))
        term = losses.anchor_kl(outputs[f"{side}_projected"], teacher, anchors, tau=config.anchor_tau)
        terms[f"{side}_anchor_kl"] = config.anchor_weight * term
    return terms


def _teacher_contrastive(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    """Contrastive loss of the student's images against the teacher's texts, and of its texts against images.

    Without texts it is against the teacher's images. Yang et al., arXiv:2307.12732 (there: interactive contrastive
    learning); Tian et al., arXiv:1910.10699.
    """
    positives = batch["row"][:, None] == batch["row"][None]
    weight, terms = distiller.config.contrastive_weight, {}
    for side in _sides(outputs):
        other = {"image": "text", "text": "image"}[side] if distiller.student.spec.text else side
        teacher = distiller.centred(other, batch[other]).detach()
        scores = losses.similarity_logits(outputs[f"{side}_projected"], teacher, distiller.scale)
        terms[f"{side}_teacher_contrastive"] = weight * losses.contrastive(scores, positives)
    return terms


def _relational(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    return {
        f"{side}_relational": losses.relational(outputs[side], F.normalize(batch[side], dim=-1))
        for side in _sides(outputs)
    }


def _dist(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    alone = not distiller.student.spec.text and not distiller.config.diagonal
    return {"dist": losses.dist(logits, target, tau=distiller.config.tau, leave_out_diagonal=alone)}


def _orthogonal_projection(distiller: Distiller, batch, outputs, logits, target) -> dict[str, Tensor]:
    length = distiller.student.spec.teacher_width**0.5  # of a layer-normed feature
    return {
        f"{side}_orthogonal": losses.orthogonal_projection(length * distiller.orthogonal(outputs[side]), batch[side])
        for side in _sides(outputs)
    }


# Name of a loss, as objectives use it -> the function that computes its weighted terms, by name, from the batch, the
# student's outputs, and the (B, B) logits of student and teacher.
LOSSES = Registry(
    "loss",
    {
        "logit_matching": _logit_matching,
        "attention_transfer": _attention_transfer,
        "contrastive": _contrastive,
        "kl": _kl,
        "combined": _combined,
        "labels": _labels,
        "feature_regression": _feature_regression,
        "anchor_kl": _anchor_kl,
        "teacher_contrastive": _teacher_contrastive,
        "relational": _relational,
        "dist": _dist,
        "orthogonal_projection": _orthogonal_projection,
    },
)


def objective_of(config: RunConfig) -> tuple[str, ...]:
    """The losses of a configuration: those that it names, else the method's."""
    return tuple(config.objective.split("+")) if config.objective else OBJECTIVES.get(config.method, DEFAULT_OBJECTIVE)


def build(config: RunConfig, fit: Split, classes: int = 0) -> Distiller:
    """Student and losses of a configuration with the initial weights of its seed, to be trained on ``fit``.

    ``classes``: the number of classes of labelled images. The distiller is in eval mode, in which trying a batch does
    not change the statistics of a batch norm; the trainer sets train mode.
    """
    spec = students.StudentSpec(
        teacher_width=fit.store["image_pooled"].shape[1],
        width=config.width,
        grid=tuple(fit.store.manifest["facts"]["grid"]),
        text=fit.has_text,
        bottleneck=config.bottleneck,
        heads=config.heads,
        convnet=config.convnet,
        pretrained=config.pretrained,
        image_size=config.image_size,
        text_side=config.text_side if fit.has_text else "teacher",
        vocabulary=fit.vocabulary.size if fit.vocabulary else 0,
    )
    objective = objective_of(config)
    torch.manual_seed(derive(config.seed, "weights"))
    given = students.build(config.method, spec), objective, config, fit.teacher_scale, classes
    return Distiller(*given, means=means(fit.store) if IN_ITS_SPACE & set(objective) else None).eval()
