"""BLIP: the image-text contrastive (ITC) space of BlipForImageTextRetrieval. Li et al., arXiv:2201.12086.

Not BlipModel: no public checkpoint carries its projections, which are then random (transformers issues
25024, 28034, 37486; the likely cause of the paper's BLIP numbers, see the README).
"""

import torch
from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor, load_tokenizer
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "Salesforce/blip-itm-base-coco"
REVISION = "98cf803d8586e8e8b3ec527885ac50c422d514ae"  # refs/pr/5, which has safetensors
BIN = "017fb3e7f4e125f13a8a4717f1402dbe0d0bb877474b4a203db13a4447b0227f"  # SHA-256 on main
LONGEST_TEXT = 35  # tokens, as in BLIP's retrieval


class BlipTeacher(Teacher):
    """Class tokens of both encoders in the trained contrastive space; tokens go through the same projections."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs, attention = seen(self.model.vision_model, pixels)
        joint = self.model.vision_proj(outputs.last_hidden_state)  # (B, 1 + N, T), already normed
        return {"pooled": joint[:, 0], "tokens": joint[:, 1:], "attention": normalised(attention)}

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """(B, L) ids and mask -> pooled (B, T), tokens (B, L, T), attention (B, L)."""
        outputs = self.model.text_encoder(ids, attention_mask=mask, output_attentions=True)
        joint = self.model.text_proj(outputs.last_hidden_state)  # (B, L, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0] * mask  # (B, L), where [CLS] looks
        attention = attention.index_fill(1, ids.new_zeros(1), 0.0)
        return {"pooled": joint[:, 0], "tokens": joint, "attention": normalised(attention)}

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read; longer texts are cut."""
        return min(LONGEST_TEXT, self.model.config.text_config.max_position_embeddings)


def seen(vision, pixels: Tensor):
    """What the vision encoder makes of (B, 3, H, W), and where the class token looks in its last layer, (B, N).

    Only the last layer's attention map is kept. At 384 pixels the maps of 64 images take 1 GB in each layer, and BLIP
    has no fused attention, which would make none.
    """
    kept = []
    hook = vision.encoder.layers[-1].self_attn.register_forward_hook(lambda *given: kept.append(given[-1][1]))
    try:
        outputs = vision(pixels)
    finally:
        hook.remove()
    return outputs, kept[0].mean(dim=1)[:, 0, 1:]


class UntrainedHeadsTeacher(BlipTeacher):
    """BLIP as the paper probably had it: a trained vision encoder, a random text encoder, random projections."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """As BlipTeacher's, through the projections that no checkpoint carries."""
        outputs, attention = seen(self.model.vision_model, pixels)
        project = self.model.visual_projection
        pooled, tokens = project(outputs.pooler_output), project(outputs.last_hidden_state[:, 1:])
        return {"pooled": pooled, "tokens": tokens, "attention": normalised(attention)}

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """As BlipTeacher's, through an encoder and projections that no checkpoint carries."""
        outputs = self.model.text_model(ids, attention_mask=mask, output_attentions=True)
        project = self.model.text_projection
        attention = outputs.attentions[-1].mean(dim=1)[:, 0] * mask  # (B, L)
        attention = attention.index_fill(1, ids.new_zeros(1), 0.0)
        pooled, tokens = project(outputs.pooler_output), project(outputs.last_hidden_state)
        return {"pooled": pooled, "tokens": tokens, "attention": normalised(attention)}


def load_untrained_heads(folder):
    """As :func:`load`, through BlipModel: what the checkpoint lacks of it is drawn anew, with a fixed seed."""
    from transformers import BlipModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, missing = load_model(BlipModel, folder)
    tokenizer = load_tokenizer(folder)
    return UntrainedHeadsTeacher, model, missing, load_processor(folder), tokenizer


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, tokenizer."""
    from transformers import BlipForImageTextRetrieval

    model, missing = load_model(BlipForImageTextRetrieval, folder)
    tokenizer = load_tokenizer(folder)
    return BlipTeacher, model, missing, load_processor(folder), tokenizer
