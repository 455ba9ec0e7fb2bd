"""What every teacher is: a frozen encoder, loaded only if every weight that it uses was in the checkpoint."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.files import file_digest
from kdlib.machine import autocast

STANDIN = "stand-in"
# Weights, configuration, preprocessing, vocabulary: what a teacher is made of, and nothing that runs.
CHECKPOINT_FILES = ("*.safetensors", "*.json", "vocab.txt", "merges.txt")


class TeacherError(Exception):
    """A checkpoint that cannot serve as this teacher; the message says which keys or files and what to do."""


def resolve(family: str, source: str, revision: str = "main") -> Path:
    """The local folder of a checkpoint: the packaged stand-in, a folder, or a snapshot from the model hub.

    A hub checkpoint is downloaded at ``revision``; only safetensors, JSON and vocabulary files are taken,
    so nothing that could execute code ever reaches the disk.
    """
    if source == STANDIN:
        return Path(__file__).parent / "standins" / family
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise TeacherError(f"{source}: no such folder, and not a model id of the form owner/name.")
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(CHECKPOINT_FILES)))
        except Exception as error:  # the hub's client raises a dozen kinds; each means the same here
            raise TeacherError(
                f"{source} (revision {revision}) could not be had from the model hub: {error}. Check the "
                "network, or download it elsewhere and give the folder as the checkpoint."
            ) from error
    if not list(folder.glob("*.safetensors")):
        raise TeacherError(
            f"{source} (revision {revision}): no safetensors file in {folder}. Pickled weights are not loaded; "
            "choose a revision that holds safetensors (many have one as refs/pr/N) or convert the checkpoint."
        )
    return folder


def describe(family: str, source: str, revision: str = "main") -> dict:
    """What identifies a teacher, without loading it: family, and the SHA-256 of each file it is made of."""
    folder = resolve(family, source, revision)
    files = sorted({path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)})
    skip = {"recipe.json"}  # written beside a stand-in, not part of it
    return {
        "family": family,
        "files": {path.name: file_digest(path) for path in files if path.name not in skip},
    }


@dataclass
class Teacher:
    """A loaded teacher. Images are PIL images or uint8 arrays; outputs are float tensors on the CPU.

    ``encode_images(images) -> {"pooled": (B, T), "tokens": (B, N, T), "attention": (B, N)}`` and, with a
    text side, ``encode_texts(texts) -> {"pooled": (B, T), "tokens": (B, L, T), "attention": (B, L),
    "mask": (B, L)}``. ``attention`` is where the last layer's pooled token looks, mean over heads, over the
    other tokens, sums to 1. ``untrained`` names weights that are used but were not in the checkpoint;
    ``image_parameters`` and ``text_parameters`` count the weights that each side uses. ``precision``: 'float32', or
    'bfloat16' for matrix products in bfloat16 with weights, norms and outputs in float32.
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
    precision: str = "float32"

    def prepare(self, images: list) -> Tensor:
        """Preprocessed pixels (B, 3, H, W) float32 on the CPU; may be called from several threads."""
        return self.preprocess(images, return_tensors="pt")["pixel_values"]

    def encode_images(self, images: list) -> dict[str, Tensor]:
        """PIL images or uint8 arrays -> pooled (B, T), tokens (B, N, T), attention (B, N), float32 on the CPU."""
        return self.encode_pixels(self.prepare(images))

    def encode_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """What :meth:`encode_images` makes of the images that ``pixels`` were prepared from."""
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = self.look(pixels.to(self.device, non_blocking=True))
        return {name: output.float().cpu() for name, output in outputs.items()}

    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Texts -> pooled (B, T), tokens (B, L, T), attention (B, L), mask (B, L), float32 on the CPU."""
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = self.read(tokens["input_ids"], tokens["attention_mask"])
        outputs["mask"] = tokens["attention_mask"]
        return {name: output.float().cpu() for name, output in outputs.items()}

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) preprocessed pixels -> pooled, tokens, attention."""
        raise TeacherError(f"{type(self).__name__} has no image side")

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """(B, L) token ids and their mask -> pooled, tokens, attention."""
        raise TeacherError(f"{self.family} has no text side; use a vision-language teacher")

    @property
    def has_text(self) -> bool:
        """Whether it reads text."""
        return self.tokenizer is not None

    @property
    def max_tokens(self) -> int:
        """Longer texts are cut; raises TeacherError where there is no text side."""
        raise TeacherError(f"{self.family} has no text side")

    @property
    def vision_config(self):
        """The configuration of the image side, which in two-sided models is a part of the whole."""
        return getattr(self.model.config, "vision_config", self.model.config)

    @property
    def image_size(self) -> int:
        """Side in pixels of what ``look`` is given."""
        return self.vision_config.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        side = self.image_size // self.vision_config.patch_size
        return side, side

    @property
    def logit_scale(self) -> float:
        """The factor that turns the teacher's cosines into logits.

        1 / 0.07 unless the checkpoint has its own: the temperature of DINO's k-NN and BLIP's initial one.
        """
        return 1 / 0.07


def load_model(model_class, folder: Path, **options) -> tuple[nn.Module, list[str]]:
    """Load a checkpoint and report what of the model was not in it, by parameter name.

    float32, eval mode, no remote code. Attention is eager, since the fused kernels give no attention maps, but for
    the vision layers before the last, whose maps nobody asks for.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # in a notebook it would leave a widget that no report can draw
    logging.set_verbosity_error()  # the audit says what is missing, and whether it matters
    model, info = model_class.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    fuse_attention(getattr(model, "vision_model", model))
    missing = set(info["missing_keys"]) | {str(entry[0]) for entry in info["mismatched_keys"]}
    return model.eval(), sorted(missing)


def fuse_attention(vision: nn.Module) -> None:
    """Fused attention in all layers but the last, where the class of the model has it. Images have no mask."""
    if not getattr(vision, "_supports_sdpa", False):
        return
    depth = vision.config.num_hidden_layers
    layers = next(part for part in vision.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
    for layer in layers[:-1]:
        for part in layer.modules():
            if hasattr(part, "config"):
                part.config = copy.copy(part.config)
                part.config._attn_implementation = "sdpa"


def audit(teacher: Teacher, missing: list[str], allow_untrained: bool) -> None:
    """Count the weights that the teacher's outputs use, and refuse it when some were not in the checkpoint.

    A weight is used when the gradient of the outputs reaches it, which needs no list of names that could
    go stale. Raises TeacherError with the keys and the class that the checkpoint was written by; with
    ``allow_untrained`` the keys go into ``teacher.untrained`` instead.
    """
    size = teacher.image_size
    # Not zeros: a weight whose gradient vanishes for a blank image is used all the same.
    pixels = torch.linspace(-1, 1, 3 * size * size, device=teacher.device).reshape(1, 3, size, size)
    used = used_parameters(teacher.model, list(teacher.look(pixels).values()))
    teacher.image_parameters = sum(used.values())
    if teacher.has_text:
        tokens = teacher.tokenizer(["a photo of a cat"], return_tensors="pt").to(teacher.device)
        read = used_parameters(
            teacher.model, list(teacher.read(tokens["input_ids"], tokens["attention_mask"]).values())
        )
        teacher.text_parameters = sum(read.values())
        used |= read
    if isinstance(getattr(teacher.model, "logit_scale", None), nn.Parameter):
        used["logit_scale"] = 1
    untrained = sorted(set(missing) & set(used))
    if untrained and not allow_untrained:
        written_by = written_by_class(Path(teacher.model.config._name_or_path))
        raise TeacherError(
            f"{teacher.source} is no trained {teacher.family} teacher: {len(untrained)} weights that its outputs "
            f"use are not in the checkpoint and would be random: {', '.join(untrained[:6])}"
            f"{' ...' if len(untrained) > 6 else ''}. The checkpoint was written by {written_by}, the teacher "
            f"needs {type(teacher.model).__name__}. Take a checkpoint of that class, or set allow_untrained to "
            "study what random layers do; every row made with it will say so."
        )
    teacher.untrained = untrained


def used_parameters(model: nn.Module, outputs: list[Tensor]) -> dict[str, int]:
    """Name -> size of the parameters that a gradient from ``outputs`` reaches."""
    parameters = dict(model.named_parameters())
    total = torch.stack([output.float().square().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: parameter.numel()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        if gradient is not None
    }


def written_by_class(folder: Path) -> str:
    """The class named in a checkpoint's config.json."""
    config = json.loads((folder / "config.json").read_text())
    return ", ".join(config.get("architectures") or ["an unnamed class"])


def normalised(attention: Tensor) -> Tensor:
    """Rows that sum to 1."""
    return attention / attention.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
