"""The interface of a teacher, a frozen encoder of images and, for some, of texts; and the audit of a loaded one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdlib.machine import autocast, to_device
from kdlib.teachers.checkpoint import TeacherError, load_model, load_part

# Two texts that differ in words and not in length: a vocabulary without these words makes one of them.
TEXTS, LONGER = ("a red circle", "a blue square"), "two large dogs and a small cat run over the green meadow"


@dataclass
class Teacher:
    """A family is a subclass with ``forward_image`` (pixels) and, for texts, ``forward_text`` (ids, mask).

    Both give ``pooled`` (B, T), ``tokens`` (B, N, T) and ``attention`` (B, N): where the token that stands for the
    whole input looks in the last layer, the mean over heads. ``encode_...`` scales its rows to sum to 1.
    """

    DEFAULT = ""  # the published checkpoint, a model id
    REVISION = ""  # the commit of it that is meant
    MODELS = ()  # (model_type in config.json, class of transformers); a family of your own may define load instead
    forward_text = None

    family: str
    source: str
    revision: str
    model: nn.Module | None = None
    preprocess: Callable | None = None
    tokenizer: Callable | None = None
    device: torch.device | None = None
    precision: str = "float32"  # bfloat16: of matrix products, with weights, norms and outputs in float32
    width: int = 0  # T
    untrained: list[str] = field(default_factory=list)  # weights that are used and were not in the checkpoint
    parameters: dict[str, int] = field(default_factory=dict)  # number of weights that each side uses
    audited: dict[str, float] = field(default_factory=dict)  # what the audit measured

    @classmethod
    def load(cls, folder: Path) -> tuple[nn.Module, list[str]]:
        """The model, and the names of its weights and buffers that the checkpoint lacks."""
        return load_model(dict(cls.MODELS), folder)

    @classmethod
    def processors(cls, folder: Path) -> tuple[Callable | None, Callable | None]:
        """The preprocessing, unless the family defines ``prepare``, and the tokenizer of a family that reads texts."""
        preprocess = load_part("AutoImageProcessor", folder) if cls.prepare is Teacher.prepare else None
        return preprocess, load_part("AutoTokenizer", folder) if cls.forward_text else None

    def prepare(self, images: list) -> Tensor:
        """RGB images -> preprocessed pixels (B, 3, H, W) float32 on the CPU; may be called from several threads."""
        return self.preprocess(images, return_tensors="pt")["pixel_values"]

    def tokenise(self, texts: list[str]):
        """Texts -> ``input_ids`` and ``attention_mask`` (B, L), padded to the longest, cut to ``max_tokens``."""
        return self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")

    def encode_image(self, pixels: Tensor) -> dict[str, Tensor]:
        """As ``forward_image``, on the teacher's device and in its precision; float32 on the CPU."""
        return self._encode(self.forward_image, pixels=pixels)

    def encode_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return self._encode(self.forward_text, ids=ids, mask=mask)

    def encode_images(self, images: list) -> dict[str, Tensor]:
        return self.encode_image(self.prepare(images))

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        words = self.tokenise(texts)
        return self.encode_text(words["input_ids"], words["attention_mask"])

    def _encode(self, forward: Callable, **inputs: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = forward(*to_device(inputs, self.device).values())
            total = outputs["attention"].sum(dim=-1, keepdim=True)
            outputs = outputs | {"attention": outputs["attention"] / total.clamp_min(torch.finfo(total.dtype).tiny)}
        return {name: output.float().cpu() for name, output in outputs.items()}

    @property
    def has_text(self) -> bool:
        return self.tokenizer is not None

    @property
    def max_tokens(self) -> int:  # longer texts are cut
        return self.model.config.text_config.max_position_embeddings

    @property
    def image_size(self) -> int:  # side in pixels of the square images that forward_image reads
        return getattr(self.model.config, "vision_config", self.model.config).image_size

    @property
    def grid(self) -> tuple[int, int]:  # rows and columns of the image tokens; their product is N
        side = self.image_size // getattr(self.model.config, "vision_config", self.model.config).patch_size
        return side, side

    @property
    def logit_scale(self) -> float:  # from cosines to logits, unless the checkpoint has one
        return 1 / 0.07  # as in DINO's k-NN and at BLIP's start


def audit(teacher: Teacher, missing: list[str], untrained_allowed: bool) -> None:
    """Refuse a teacher that uses weights or buffers which were not in its checkpoint, or whose outputs cannot be right.

    A weight is used when the gradient of the outputs reaches it. Names come first, whatever else is wrong.
    """
    untrained, fault = set(missing), None
    try:
        outputs = _outputs(teacher)  # with gradients, which tell what is used
        used = {side: _reached(teacher.model, output) for side, output in outputs.items()}
        teacher.parameters = {side: sum(sizes.values()) for side, sizes in used.items()}
        buffers = {name for name, buffer in teacher.model.named_buffers() if buffer.is_floating_point()}
        untrained &= buffers.union(*used.values(), ("logit_scale", "logit_bias"))
        teacher.width, teacher.untrained = outputs["image"]["pooled"].shape[1], sorted(untrained)
        _check(teacher, outputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a family's own code raises
        fault = error if isinstance(error, TeacherError) else f"it fails with {type(error).__name__}: {error}"
    if untrained and not untrained_allowed:
        first = ", ".join(sorted(untrained)[:6]) + " ..." * (len(untrained) > 6)
        raise TeacherError(
            f"{teacher.source} is no trained {teacher.family} teacher: {len(untrained)} weights that its outputs use "
            f"are not in the checkpoint: {first}. Take one that {type(teacher.model).__name__} wrote. {fault or ''}"
        )
    if fault:
        raise TeacherError(f"{teacher.source} cannot serve as {teacher.family} teacher: {fault}.")


def _outputs(teacher: Teacher) -> dict[str, dict[str, Tensor]]:
    """The outputs for two images and two texts, after a look at what the preprocessing makes of five images."""
    size, noise = teacher.image_size, np.random.default_rng(0)
    images = [noise.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((size, 2 * size), (2 * size, size))]
    images += [np.full((size, size, 3), level, dtype=np.uint8) for level in (0, 128, 255)]
    pixels = [teacher.prepare([Image.fromarray(image)]) for image in images]
    shapes, wanted = [tuple(made.shape) for made in pixels[:3]], (1, 3, size, size)
    if set(shapes) != {wanted}:
        made = f"{shapes} of a wide, a tall and a square image, not {wanted}"
        raise TeacherError(f"its preprocessing makes {made}; set both sides, or crop")
    if not (largest := torch.cat(pixels[2:]).abs().max()) <= 10:
        made = f"values up to {largest:.4g} of black, grey and white, beyond 10"
        raise TeacherError(f"its preprocessing makes {made}; correct do_rescale, image_mean or image_std")
    teacher.audited["largest_pixel"] = largest.item()
    outputs = {"image": teacher.forward_image(torch.cat(pixels[:2]).to(teacher.device))}
    if teacher.has_text:
        words = teacher.tokenise(list(TEXTS))
        ids, mask = (words[name].to(teacher.device) for name in ("input_ids", "attention_mask"))
        outputs["text"] = teacher.forward_text(ids, mask)
    return outputs


def _reached(model: nn.Module, outputs: dict[str, Tensor]) -> dict[str, int]:
    """Name -> size of the parameters that a gradient from ``outputs`` reaches; of all where none is recorded."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    total = sum(output.float().square().sum() for output in outputs.values())
    found = torch.autograd.grad(total, parameters, allow_unused=True) if total.requires_grad else parameters
    known = zip(names, parameters, found, strict=True)
    return {name: parameter.numel() for name, parameter, gradient in known if gradient is not None}


def _check(teacher: Teacher, outputs: dict[str, dict[str, Tensor]]) -> None:
    """Raise TeacherError for outputs of two images and two texts that cannot be right."""
    for side, output in outputs.items():
        length = teacher.grid[0] * teacher.grid[1] if side == "image" else output["attention"].shape[1]
        shapes = {"pooled": (2, teacher.width), "tokens": (2, length, teacher.width), "attention": (2, length)}
        for part, shape in shapes.items():
            if output[part].shape != shape:
                raise TeacherError(f"{side} {part} is {tuple(output[part].shape)}, not {shape} (grid {teacher.grid})")
            if not output[part].isfinite().all():
                raise TeacherError(f"{side} {part} has NaN or infinity; its weights may be damaged")
        if output["attention"].min() < 0 or output["attention"].sum(dim=1).min() <= 0:
            raise TeacherError(f"{side} attention is negative or all zero")
        one, other = output["pooled"].detach().float()
        if not teacher.untrained and (one - other).norm() <= 1e-6 * one.norm():  # random layers may well do that
            raise TeacherError(f"it gives one answer to two {side}s, as with zero weights or another vocabulary")
    if teacher.has_text:
        alone, beside = (teacher.encode_texts([TEXTS[0], *more])["pooled"][0] for more in ([], [LONGER]))
        teacher.audited["text_beside_longer"] = away = ((alone - beside).norm() / alone.norm()).item()
        if away > 0.05:
            raise TeacherError("a text changes beside a longer one; the tokenizer must pad right, and the mask hide it")
