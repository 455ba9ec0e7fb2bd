"""The configuration of one run: one flat, frozen set of fields, which is also a notebook's parameters cell."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Fields that change no trained weight, or whose effect the training's key holds as a digest of teacher and data.
NOT_TRAINING = {
    "study", "variant", "epochs", "score_on", "checkpoint", "revision", "data_root", "on_overlap", "device",
    "feature_dtype", "teacher_precision", "token_grid", "linear_probe", "timed_calls", "cooldown",
}  # fmt: skip


class RunConfig(BaseModel):
    """What is trained on what, and how. Unknown names and values out of range are errors.

    The defaults are the embedded study's: small students, since its teachers are 128 wide. The paper's own
    sizes (width 256, bottleneck 128, full ResNet and DenseNet) are in notebooks/studies/paper.yaml.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    study: str = Field("by_hand", description="name of the study, the first folder below runs/")
    teacher: str = Field(description="family: dino, dinov2, dinov3, beit, clip, siglip2, blip, or one of your own")
    dataset: str = Field(description="tinyimagenet, coco, or one of your own")
    method: str = Field("projection", description="how the student is built")
    epochs: int = Field(5, ge=1, description="epochs in all; more than before continues from the checkpoint")
    seed: int = Field(0, ge=0, description="seed of initial weights and data order")
    variant: str = Field("", pattern=r"^[\w.-]*$", description="name of a variation of the method, part of the folder")
    score_on: Literal["test", "dev"] = Field(
        "test", description="the split that is scored; whatever is chosen uses dev"
    )

    checkpoint: str = Field("stand-in", description="'stand-in', a model id, a folder, or '' for the published one")
    revision: str = Field("", description="revision of a model id; '' is the pinned commit, or main where none is")
    allow_untrained: bool = Field(False, description="accept a teacher with untrained weights, marked in each result")
    untrained_heads: bool = Field(False, description="BLIP with a random text encoder and random projections")
    data_root: str = Field("shapes", description="'shapes' (embedded) or the folder or zip of the official layout")
    on_bad_image: Literal["error", "skip"] = Field("error", description="what to do with unreadable images")
    on_overlap: Literal["error", "drop"] = Field("error", description="what to do with images that are in two splits")
    train_limit: int = Field(0, ge=0, description="number of training images; 0 is all")

    width: int = Field(64, ge=2, description="width of the student's embedding")
    bottleneck: int = Field(32, ge=1, description="inner width of the bottleneck student")
    heads: int = Field(8, ge=1, description="attention heads of the attention student and of the text transformer")
    convnet: Literal["full", "narrow"] = Field(
        "narrow", description="full is ResNet-18, DenseNet-121, MobileNetV3 small, ViT-Tiny"
    )
    pretrained: bool = Field(False, description="start full networks from torchvision's ImageNet weights, not the ViT")
    image_size: int = Field(48, ge=16, description="side in pixels of the images that these networks read")
    text_side: Literal["teacher", "bag", "transformer"] = Field(
        "teacher", description="of students that read pixels: a projection of the teacher's, or their own"
    )

    objective: str = Field("", description="losses joined by +, or no_teacher; empty takes the method's own")
    diagonal: bool = Field(False, description="keep each image's match with itself in logit matching")
    batch_size: int = Field(64, ge=2, description="images a step")
    # lr_peak, tau and the three weights: chosen on dev, notebooks/studies/tuning.yaml and tuning.csv.
    lr_peak: float = Field(1e-2, gt=0, lt=1e6, description="learning rate after the warm-up")
    warmup_steps: int = Field(50, ge=1, description="steps to the peak; then the rate falls as 1/sqrt(step)")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices only")
    tau: float = Field(2.0, gt=0, description="temperature of the softened logits")
    attention_weight: float = Field(1.0, ge=0, description="weight of the attention transfer term")
    contrastive_weight: float = Field(1.0, ge=0, description="weight of the contrastive term")
    kl_weight: float = Field(1.0, ge=0, description="weight of the KL term beside the contrastive one")
    anchor_weight: float = Field(0.1, ge=0, description="weight of the KL over anchors")
    anchors: int = Field(1024, ge=2, description="stored features of the teacher in the KL over anchors")
    anchor_tau: float = Field(0.07, gt=0, description="temperature of the KL over anchors")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 never clips")
    cooldown: float = Field(0.0, ge=0, le=1, description="length of the cooldown before scoring, as a share of epochs")
    crop: float = Field(1.0, gt=0, le=1, description="least share of the area that random crops keep; 1 never crops")
    flip: bool = Field(False, description="mirror half of the training images; captions with left and right forbid it")
    colour: float = Field(0.0, ge=0, lt=1, description="change brightness, contrast and saturation by up to this share")
    views: int = Field(
        0, ge=0, le=1000, description="stored views an image, each with its target; 0: a new one an epoch"
    )
    extra_images: str = Field("", description="more to distil from, never scored: a folder, a zip, or 'drawn:20000'")

    feature_dtype: Literal["float16", "float32"] = Field("float16", description="of the feature store on disk")
    teacher_precision: Literal["float32", "bfloat16"] = Field("float32", description="of the teacher's forward pass")
    token_grid: int = Field(0, ge=0, description="image tokens kept a side, by averaging; 0 keeps all")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the forward pass in training")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads; part of the run, since sums depend on it")
    linear_probe: bool = Field(True, description="score a logistic regression too; ridge is always there")
    timed_calls: int = Field(200, ge=5, description="calls that a latency is taken from")

    @model_validator(mode="after")
    def _has_weights(self) -> "RunConfig":
        narrow = self.method in ("resnet", "densenet", "mobilenet") and self.convnet == "narrow"
        if self.pretrained and (narrow or self.method == "vit"):
            raise ValueError(
                f"pretrained: there are no ImageNet weights for {'the narrow ' if narrow else ''}{self.method}. "
                "Set convnet to 'full' (resnet, densenet, mobilenet), or pretrained to false."
            )
        return self

    @classmethod
    def from_notebook(cls, variables: dict, teacher: str, dataset: str) -> "RunConfig":
        """The configuration that a notebook's parameters cell states. ``variables``: the notebook's ``globals()``."""
        given = {name: variables[name] for name in cls.model_fields if name in variables}
        return cls(**given | {"teacher": teacher, "dataset": dataset})

    @property
    def folder(self) -> str:
        """The method and variant in the names of folders and pages, as 'projection' or 'resnet+no_teacher'."""
        return f"{self.method.replace(':', '.')}{'+' if self.variant else ''}{self.variant}"

    def training(self) -> dict:
        """The fields that a trained weight can depend on. Epochs are not: training 10 is training 5 and 5 more."""
        # Teacher and data enter through the digests of their content, the device through the result's record.
        return self.model_dump(exclude=NOT_TRAINING)
