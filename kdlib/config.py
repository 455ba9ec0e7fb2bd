"""The configuration of a run: one flat, frozen set of fields, which is also a notebook's parameters cell."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kdlib.utils import absolute, nearest

# Fields that change no trained weight, or that enter a training's key through the digest of the features.
NOT_TRAINING = {
    "study", "variant", "epochs", "score_on", "checkpoint", "data_root", "on_bad_image", "on_overlap", "on_missing",
    "train_limit", "extra_images", "device", "feature_dtype", "teacher_precision", "token_grid", "timed_calls",
}  # fmt: skip


def _budgets(value):
    """``5``, ``[5, 10]``, and what papermill's command line makes of it, ``'5,10'`` or ``'[5, 10]'``."""
    if isinstance(value, str):
        value = [int(part) for part in re.findall(r"-?\d+", value)]
    return sorted(set(value)) if isinstance(value, (list, tuple)) else [value]


Budgets = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_budgets), Field(min_length=1)]
Place = Annotated[str, AfterValidator(absolute)]


class RunConfig(BaseModel):
    """What is trained on what, and how. The defaults are the demo study's; the paper's sizes are in its study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    study: str = Field("by_hand", pattern=r"^\w[\w.-]*$", description="name of the study, a folder below runs/")
    teacher: str = Field(description="family: dino, dinov2, dinov3, beit, clip, siglip2, blip, or your own")
    dataset: str = Field(description="tinyimagenet, coco, folder, or your own")
    method: str = Field("projection", description="how the student is built")
    epochs: Budgets = Field([5], description="budgets, as [5, 10]: trained to the largest, each is scored")
    seed: int = Field(0, ge=0, description="seed of initial weights, data order, captions and crops")
    variant: str = Field("", pattern=r"^[\w.-]*$", description="name of a variation of the method")
    score_on: Literal["test", "dev"] = Field("test", description="the scored split; whatever is chosen uses dev")

    checkpoint: Place = Field("toy", description="'toy', a folder, a model id (or owner/name@commit), '' for published")
    untrained_heads: bool = Field(False, description="BLIP with a random text encoder and random projections")
    data_root: Place = Field("shapes", description="'shapes' (synthetic), or the data set's folder")
    on_bad_image: Literal["error", "skip"] = Field("error", description="what to do with unreadable images")
    on_overlap: Literal["error", "drop"] = Field("error", description="what to do with images that are in two splits")
    on_missing: Literal["error", "skip"] = Field("error", description="what to do with listed images that are absent")
    train_limit: int = Field(0, ge=0, description="number of training images; 0 is all")

    width: int = Field(64, ge=2, description="width of the student's embedding")
    bottleneck: int = Field(32, ge=1, description="inner width of the bottleneck student")
    convnet: Literal["full", "narrow"] = Field("narrow", description="full: ResNet-18, DenseNet-121, MobileNetV3 small")
    pretrained: bool = Field(False, description="start full networks from torchvision's ImageNet weights")
    image_size: int = Field(48, ge=16, description="side in pixels of the images that these networks read")
    text_side: Literal["teacher", "transformer"] = Field("teacher", description="of students that read pixels")

    objective: str = Field("", description="losses joined by +, or supervised; empty takes the method's own")
    diagonal: bool = Field(False, description="keep each image's match with itself in logit matching")
    batch_size: int = Field(64, ge=2, description="images a step")
    # lr_peak, tau and the three weights were chosen on dev: notebooks/studies/tuning.yaml and tuning.csv.
    lr_peak: float = Field(1e-2, gt=0, lt=1e6, description="learning rate after the warm-up")
    warmup_steps: int = Field(50, ge=1, description="steps to the peak; then the rate falls as 1/sqrt(step)")
    tau: float = Field(2.0, gt=0, description="temperature of the softened logits")
    attention_weight: float = Field(1.0, ge=0, description="weight of the attention transfer term")
    contrastive_weight: float = Field(1.0, ge=0, description="weight of the contrastive term")
    kl_weight: float = Field(1.0, ge=0, description="weight of the KL term beside the contrastive one")
    anchor_weight: float = Field(0.1, ge=0, description="weight of the KL over anchors")
    anchors: int = Field(1024, ge=2, description="stored features of the teacher in the KL over anchors")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 never clips")
    cooldown: float = Field(0.0, ge=0, le=1, description="length of each budget's cooldown, as a share of its epochs")
    crop: float = Field(1.0, gt=0, le=1, description="least share of the area that random crops keep; 1 never crops")
    flip: bool = Field(False, description="mirror half of the training images; captions with left and right forbid it")
    extra_images: Place = Field("", description="more to distil from, never scored: a folder, or 'shapes:20000'")

    feature_dtype: Literal["float16", "float32"] = Field("float16", description="of the features on disk")
    teacher_precision: Literal["float32", "bfloat16"] = Field("float32", description="of the teacher's forward pass")
    token_grid: int = Field(0, ge=0, description="image tokens kept a side, by averaging; 0 keeps all")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass in training")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; part of the run, since sums depend on it")
    timed_calls: int = Field(200, ge=5, description="calls that a latency is taken from")

    @model_validator(mode="after")
    def _has_weights(self) -> "RunConfig":
        if self.pretrained and self.convnet == "narrow" and self.method in ("resnet", "densenet", "mobilenet"):
            raise ValueError(f"pretrained: the narrow {self.method} has no ImageNet weights. Set convnet to 'full'.")
        return self

    @classmethod
    def from_notebook(cls, variables: dict, teacher: str) -> "RunConfig":
        """The configuration of a notebook's parameters cell. ``variables``: its ``globals()``, with ``overrides``.

        A name that is no field is an error, also below the cell, where papermill puts ``-p`` and only warns.
        """
        known, overrides = {*cls.model_fields, "overrides"} - {"teacher"}, variables.get("overrides", {})
        cells = [cell for cell in variables.get("In", ()) if re.search(r"^# Parameters\n|^overrides: dict", cell, re.M)]
        for name in [*re.findall(r"^(\w+)(?:: \w+)? = ", "\n".join(cells), re.M), *overrides]:
            if name not in known:
                what = f"There is no parameter '{name}' of this notebook, whose teacher is {teacher}."
                raise ValueError(f"{what}{nearest(name, known)}")
        given = {name: variables[name] for name in cls.model_fields if name in variables}
        return cls(**given | overrides | {"teacher": teacher})

    @property
    def folder(self) -> str:
        """The method and variant in the names of folders, as 'projection' or 'resnet+supervised'."""
        return f"{self.method.replace(':', '.')}{'+' if self.variant else ''}{self.variant}"

    def training(self) -> dict:
        """The fields that a trained weight can depend on. Epochs are not: training 10 is training 5 and 5 more."""
        return self.model_dump(exclude=NOT_TRAINING)
