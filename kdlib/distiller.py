"""The distiller: a student and its losses, from a batch to (loss, named terms). It holds everything that is trained."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from kdlib import losses, students
from kdlib.config import RunConfig
from kdlib.features import means
from kdlib.loader import Split
from kdlib.utils import derive, find

INITIAL_SCALE = 1 / 0.07  # CLIP's, arXiv:2103.00020, section 2.5
LARGEST_SCALE = 100.0  # likewise

# Which losses train which student; a method that is not listed gets logit matching.
OBJECTIVES = {
    "projection": ("logit_matching",), "bottleneck": ("logit_matching",),
    "attention": ("logit_matching", "attention_transfer"), "cbam": ("logit_matching", "attention_transfer"),
    "resnet": ("combined",), "densenet": ("combined",), "mobilenet": ("feature_regression", "anchor_kl"),
}  # fmt: skip
# Losses in the teacher's space: they compare the projected embedding with the teacher's centred features.
TEACHER_SPACE = {"feature_regression", "anchor_kl", "teacher_contrastive"}


class Distiller(nn.Module):
    """A student, its logit scale and the trained parts of its losses. ``distiller(batch) -> (loss, terms)``.

    Logits are image x text, or with a vision-only teacher image x image without the diagonal; 'combined' is then logit
    matching alone. 'supervised' is 'contrastive' where there are captions, else 'labels' (over ``classes``).

    ``teacher_scale``: from the teacher's cosines to its logits. ``means``: {side: its mean feature (T,)}, or zero.
    """

    def __init__(self, student, objective: tuple, config: RunConfig, teacher_scale: float, classes=0, means=None):
        super().__init__()
        self.student, self.config, self.teacher_scale = student, config, teacher_scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        text, width, teacher_width = student.inputs.text, config.width, student.inputs.teacher_width
        instead = {"supervised": "contrastive"} if text else {"supervised": "labels", "combined": "logit_matching"}
        objective = tuple(instead.get(name, name) for name in objective)
        self.objective = {name: find(losses.LOSSES, name, "loss") for name in objective}
        if {"contrastive", "kl", "combined"} & set(objective) and not text:
            raise ValueError("The objectives contrastive and kl need captions; on labelled images take logit_matching.")
        if "labels" in objective and not classes:
            raise ValueError("The objective labels needs a data set with labels; with captions take contrastive.")
        if "attention_transfer" in objective and not student.attends:
            raise ValueError(f"{type(student).__name__} has no attention map, which attention_transfer compares.")
        if "labels" in objective:
            self.classifier = nn.Linear(width, classes, bias=False)
        self.projector = self.orthogonal = None
        if TEACHER_SPACE & set(objective):
            if not text:
                wide = 2 * teacher_width  # of two layers: the embedding need not copy the feature. SimReg
                first, last = nn.Linear(width, wide), nn.Linear(wide, teacher_width)
                self.projector = nn.Sequential(Rescaled(), first, nn.BatchNorm1d(wide), nn.ReLU(), last)
            else:  # one for image and text, since inference compares them: nothing for equal widths, else a linear map
                same = width == teacher_width
                self.projector = nn.Identity() if same else nn.Linear(width, teacher_width, bias=False)
            for side in ("image", "text") if text else ("image",):
                mean = torch.zeros(teacher_width) if means is None else means[side].clone()
                self.register_buffer(f"{side}_mean", mean)
        if "orthogonal_projection" in objective:  # keeps all cosines where the teacher is at least as wide
            self.orthogonal = parametrizations.orthogonal(nn.Linear(width, teacher_width, bias=False))

    @property
    def scale(self) -> Tensor:
        """The factor that turns the student's cosines into logits, a scalar in (0, LARGEST_SCALE]."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    @property
    def leaves_out_diagonal(self) -> bool:
        """Whether image x image logits are compared without each image's similarity with itself."""
        return not self.student.inputs.text and not self.config.diagonal

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of the loader -> the loss, a scalar, and its terms by name.

        Losses get the student's outputs, ``logits`` and ``teacher_logits`` (B, B), and in the teacher's space
        ``image_projected`` and ``text_projected`` (B, T).
        """
        with torch.no_grad():
            # Past the limit the clamped scale would have no gradient and never come down again. The margin is for
            # float32's ln(100), which rounds above the limit.
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE) - 1e-6)
        outputs = dict(self.student(batch))
        if self.projector is not None:
            outputs |= {f"{side}_projected": self.projector(outputs[side]) for side in losses.sides_of(outputs)}
        other = "text" if self.student.inputs.text else "image"
        outputs["logits"] = losses.similarity_logits(outputs["image"], outputs[other], self.scale)
        with torch.no_grad():
            outputs["teacher_logits"] = losses.similarity_logits(batch["image"], batch[other], self.teacher_scale)
        terms: dict[str, Tensor] = {}
        for name, function in self.objective.items():
            if getattr(function, "__module__", "") == losses.__name__:
                terms |= function(self, outputs, batch)
            else:  # a user's own, whose term has its name
                terms[name.rpartition(":")[2]] = value = function(outputs, batch)
                if value.ndim:
                    raise ValueError(f"The loss {name} returns shape {tuple(value.shape)}, no scalar: take its mean.")
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def centred(self, side: str, features: Tensor) -> Tensor:
        """The teacher's features (B, T) of one side minus the mean feature of that side."""
        return features - getattr(self, f"{side}_mean")


class Rescaled(nn.Module):
    """Scales embeddings (B, D) of length 1 to length sqrt(D), as linear layers with a batch norm expect."""

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings * embeddings.shape[-1] ** 0.5


def objective_of(config: RunConfig) -> tuple[str, ...]:
    """The losses of a configuration: those that it names, else the method's."""
    if config.objective:
        return tuple(config.objective.split("+"))
    student = students.class_of(config.method)  # by its class, so that cbam and an object CBAM get the same losses
    return next((names for one, names in OBJECTIVES.items() if students.class_of(one) is student), ("logit_matching",))


def role_of(config: RunConfig) -> str:
    """What a run is in the tables: 'student', 'self_contained', 'supervised' or 'ablation'."""
    objective = set(objective_of(config))
    if objective <= {"supervised", "labels"}:
        return "supervised"
    if objective & TEACHER_SPACE and students.class_of(config.method).reads == "pixels":
        return "self_contained"
    return "ablation" if config.variant else "student"


def build(config: RunConfig, split: Split, classes: int = 0) -> Distiller:
    """Student and losses with the initial weights of the seed, in eval mode: trying a batch changes no batch norm."""
    features, objective = split.features, objective_of(config)
    width, grid = features["image_pooled"].shape[1], tuple(features.facts["grid"])
    inputs = students.Inputs(width, grid, split.has_text, split.vocabulary.size if split.vocabulary else 0)
    torch.manual_seed(derive(config.seed, "weights"))
    given = students.build(config, inputs), objective, config, split.teacher_scale, classes
    return Distiller(*given, means=means(features) if TEACHER_SPACE & set(objective) else None).eval()
