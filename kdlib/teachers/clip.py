"""CLIP: image and text encoders with a joint space. Radford et al., arXiv:2103.00020."""

import torch
from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor, load_tokenizer
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "openai/clip-vit-base-patch32"
REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"  # refs/pr/66, which has safetensors
BIN = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"  # SHA-256 on main


class ClipTeacher(Teacher):
    """Class token and end-of-text token in the joint space; tokens go through the same norms and projections."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs = self.model.vision_model(pixels, output_attentions=True)
        # Every token goes the way of the class token: last norm, then the projection to the joint space.
        hidden = self.model.vision_model.post_layernorm(outputs.last_hidden_state)
        joint = self.model.visual_projection(hidden)  # (B, 1 + N, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N)
        return {"pooled": joint[:, 0], "tokens": joint[:, 1:], "attention": normalised(attention)}

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """(B, L) ids and mask -> pooled (B, T), tokens (B, L, T), attention (B, L)."""
        outputs = self.model.text_model(ids, attention_mask=mask, output_attentions=True)
        joint = self.model.text_projection(outputs.last_hidden_state)  # (B, L, T)
        rows = torch.arange(ids.shape[0], device=ids.device)
        end = mask.sum(dim=1) - 1  # the tokenizer ends each text with the token that CLIP pools
        attention = outputs.attentions[-1].mean(dim=1)[rows, end] * mask  # (B, L)
        attention = attention.scatter(1, end[:, None], 0.0)
        return {"pooled": joint[rows, end], "tokens": joint, "attention": normalised(attention)}

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read; longer texts are cut."""
        return self.model.config.text_config.max_position_embeddings

    @property
    def logit_scale(self) -> float:
        """The factor from cosines to logits that the checkpoint was trained with."""
        return self.model.logit_scale.exp().item()


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, tokenizer."""
    from transformers import CLIPModel

    model, missing = load_model(CLIPModel, folder)
    tokenizer = load_tokenizer(folder)
    return ClipTeacher, model, missing, load_processor(folder), tokenizer
