"""DINO: a ViT trained without labels; its class token after the last norm is the feature.

Caron et al., arXiv:2104.14294. Any ViTModel checkpoint loads.
"""

from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "facebook/dino-vitb16"
REVISION = "a77533c84408875b30b5e8beb766c82a5be82bf4"  # refs/pr/7, which has safetensors
BIN = "a064e36c67289caaa5c949c0b3f7f31a0fcbcba5721f5fa12419933ec1f4fe6e"  # SHA-256 on main


class DinoTeacher(Teacher):
    """The class token after the last norm, as DINO's authors evaluate it."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs = self.model(pixels, output_attentions=True)
        hidden = outputs.last_hidden_state  # (B, 1 + N, T), after the last norm
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N)
        return {"pooled": hidden[:, 0], "tokens": hidden[:, 1:], "attention": normalised(attention)}


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, no tokenizer."""
    from transformers import ViTModel

    # The paper's feature is the class token itself, so the pooler, which DINO never trained, is left out.
    model, missing = load_model(ViTModel, folder, add_pooling_layer=False)
    return DinoTeacher, model, missing, load_processor(folder), None
