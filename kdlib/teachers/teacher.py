"""The interface of a teacher: a frozen encoder of images and, for vision-language teachers, of texts."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kdlib.machine import autocast

STANDIN = "stand-in"


class TeacherError(Exception):
    """A checkpoint that cannot serve as this teacher; the message says which keys or files and what to do."""


@dataclass
class Teacher:
    """A loaded teacher. Images are PIL images or uint8 arrays; outputs are float tensors on the CPU.

    ``encode_images(images) -> {"pooled": (B, T), "tokens": (B, N, T), "attention": (B, N)}`` and, with a
    text side, ``encode_texts(texts) -> {"pooled": (B, T), "tokens": (B, L, T), "attention": (B, L),
    "mask": (B, L)}``. ``attention``: the weights with which the token that stands for the whole input (the class
    token, or the family's own pooling) attends to the other tokens in the last layer; mean over heads, rows sum to 1.
    ``untrained`` names weights that are used but were not in the checkpoint. ``image_parameters`` and
    ``text_parameters`` count the weights that each side uses; ``width`` is T. ``precision``: 'float32', or 'bfloat16'
    for matrix products in bfloat16 with weights, norms and outputs in float32.

    A family defines ``look`` and, with a text side, ``read`` and ``max_tokens``.
    """

    family: str
    source: str
    revision: str
    model: nn.Module
    preprocess: Callable
    tokenizer: Callable | None
    device: torch.device
    untrained: list[str] = field(default_factory=list)
    image_parameters: int = 0
    text_parameters: int = 0
    width: int = 0
    precision: str = "float32"

    def prepare(self, images: list) -> Tensor:
        """Preprocessed pixels (B, 3, H, W) float32 on the CPU; may be called from several threads."""
        return self.preprocess(images, return_tensors="pt")["pixel_values"]

    def encode_images(self, images: list) -> dict[str, Tensor]:
        """PIL images or uint8 arrays -> pooled (B, T), tokens (B, N, T), attention (B, N), float32 on the CPU."""
        return self.encode_pixels(self.prepare(images))

    def encode_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """As :meth:`encode_images`, from the output of :meth:`prepare`, (B, 3, H, W)."""
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = self.look(pixels.to(self.device, non_blocking=True))
        return {name: output.float().cpu() for name, output in outputs.items()}

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Texts -> pooled (B, T), tokens (B, L, T), attention (B, L), mask (B, L), float32 on the CPU."""
        tokens = self.tokenize(texts).to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = self.read(tokens["input_ids"], tokens["attention_mask"])
        outputs["mask"] = tokens["attention_mask"]
        return {name: output.float().cpu() for name, output in outputs.items()}

    def tokenize(self, texts: list[str]):
        """Texts -> ``input_ids`` and ``attention_mask`` (B, L), padded to the longest, cut to ``max_tokens``."""
        return self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) preprocessed pixels -> pooled, tokens, attention."""
        raise TeacherError(f"{type(self).__name__} has no image side")

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """(B, L) token ids and their mask -> pooled, tokens, attention."""
        raise TeacherError(f"{self.family} has no text side; use a vision-language teacher")

    @property
    def has_text(self) -> bool:
        """Whether the teacher has a text side."""
        return self.tokenizer is not None

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read; longer texts are cut. Raises TeacherError without a text side."""
        raise TeacherError(f"{self.family} has no text side")

    @property
    def vision_config(self):
        """The configuration of the image side, which in two-sided models is a part of the whole."""
        config = getattr(self.model, "config", None)
        if config is None:
            raise TeacherError(
                f"{type(self).__name__} says neither image_size nor grid, and its model has no configuration to take "
                "them from. Write both into the class, as: image_size = 224; grid = (7, 7)."
            )
        return getattr(config, "vision_config", config)

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that ``look`` reads."""
        return self.vision_config.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of image tokens; their product is N."""
        side = self.image_size // self.vision_config.patch_size
        return side, side

    @property
    def logit_scale(self) -> float:
        """The factor that turns the teacher's cosines into logits.

        1 / 0.07 unless the checkpoint has its own: the temperature of DINO's k-NN and BLIP's initial one.
        """
        return 1 / 0.07


def normalised(attention: Tensor) -> Tensor:
    """Attention weights (B, N) scaled so that each row sums to 1."""
    return attention / attention.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
