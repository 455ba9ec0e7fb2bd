"""BLIP: the image-text contrastive (ITC) space of BlipForImageTextRetrieval. Li et al., arXiv:2201.12086.

Not BlipModel: no public checkpoint carries its projections, which are then random (transformers issues
25024, 28034, 37486; the likely cause of the paper's BLIP numbers).
"""

from torch import Tensor

from kdlib.teachers.base import Teacher


class Blip(Teacher):
    """Class tokens of both encoders in the trained contrastive space; tokens go through the same projections."""

    DEFAULT = "Salesforce/blip-itm-base-coco"
    REVISION = "98cf803d8586e8e8b3ec527885ac50c422d514ae"  # refs/pr/5, which has safetensors
    MODELS = (("blip", "BlipForImageTextRetrieval"),)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs, attention = see(self.model.vision_model, pixels)
        joint = self.model.vision_proj(outputs.last_hidden_state)  # (B, 1 + N, T), already normed
        return {"pooled": joint[:, 0], "tokens": joint[:, 1:], "attention": attention}

    def forward_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        outputs, attention = read(self.model.text_encoder, ids, mask)
        joint = self.model.text_proj(outputs.last_hidden_state)  # (B, L, T)
        return {"pooled": joint[:, 0], "tokens": joint, "attention": attention}

    @property
    def max_tokens(self) -> int:
        return min(35, super().max_tokens)  # as in BLIP's retrieval


def see(vision, pixels: Tensor):
    """What the vision encoder makes of (B, 3, H, W), and where the class token looks in its last layer, (B, N).

    No other map is kept: at 384 pixels those of 64 images take 1 GB a layer, and BLIP has no fused attention.
    """
    maps = []
    with vision.encoder.layers[-1].self_attn.register_forward_hook(lambda *call: maps.append(call[-1][1])):
        outputs = vision(pixels)
    return outputs, maps[0].mean(dim=1)[:, 0, 1:]


def read(encoder, ids: Tensor, mask: Tensor):
    """What a text encoder makes of (B, L) ids and mask, and where [CLS] looks in its last layer, (B, L)."""
    outputs = encoder(ids, attention_mask=mask, output_attentions=True)
    attention = outputs.attentions[-1].mean(dim=1)[:, 0] * mask
    return outputs, attention.index_fill(1, ids.new_zeros(1), 0.0)


class RandomHeads(Blip):
    """BLIP as the paper probably had it: a trained vision encoder, a random text encoder, random projections."""

    MODELS = (("blip", "BlipModel"),)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs, attention = see(self.model.vision_model, pixels)
        project = self.model.visual_projection
        tokens = project(outputs.last_hidden_state[:, 1:])
        return {"pooled": project(outputs.pooler_output), "tokens": tokens, "attention": attention}

    def forward_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        outputs, attention = read(self.model.text_model, ids, mask)
        project = self.model.text_projection
        pooled, tokens = project(outputs.pooler_output), project(outputs.last_hidden_state)
        return {"pooled": pooled, "tokens": tokens, "attention": attention}
