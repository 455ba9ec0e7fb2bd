"""Vision-language teachers with a joint space: CLIP, trained with a softmax over pairs, SigLIP 2 with a sigmoid."""

import torch
from torch import Tensor

from kdlib.teachers.base import Teacher
from kdlib.teachers.checkpoint import load_part


class Clip(Teacher):
    """Class and end-of-text tokens in the joint space; others go the same way. Radford et al., arXiv:2103.00020."""

    DEFAULT = "openai/clip-vit-base-patch32"
    REVISION = "c237dc49a33fc61debc9276459120b7eac67e7ef"  # refs/pr/66, which has safetensors
    MODELS = (("clip", "CLIPModel"),)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.model.vision_model(pixels, output_attentions=True)
        # Every token goes the way of the class token: last norm, then the projection to the joint space.
        hidden = self.model.vision_model.post_layernorm(outputs.last_hidden_state)
        joint = self.model.visual_projection(hidden)  # (B, 1 + N, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N)
        return {"pooled": joint[:, 0], "tokens": joint[:, 1:], "attention": attention}

    def forward_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        outputs = self.model.text_model(ids, attention_mask=mask, output_attentions=True)
        joint = self.model.text_projection(outputs.last_hidden_state)  # (B, L, T)
        rows = torch.arange(ids.shape[0], device=ids.device)
        end = mask.sum(dim=1) - 1  # the tokenizer ends each text with the token that CLIP pools
        attention = outputs.attentions[-1].mean(dim=1)[rows, end] * mask  # (B, L)
        attention = attention.scatter(1, end[:, None], 0.0)
        return {"pooled": joint[rows, end], "tokens": joint, "attention": attention}

    @property
    def logit_scale(self) -> float:  # SigLIP's bias cancels in a softmax
        return self.model.logit_scale.exp().item()


class Siglip2(Clip):
    """The pooled outputs of both encoders; a token's feature is the pooling head's output for that token alone.

    Tschannen et al., arXiv:2502.14786. Its class is SigLIP's (arXiv:2303.15343), so checkpoints of SigLIP load too.
    """

    DEFAULT = "google/siglip2-base-patch16-224"
    REVISION = "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2"
    MODELS = (("siglip", "SiglipModel"),)

    @classmethod
    def processors(cls, folder):
        from tokenizers import normalizers

        tokenizer = load_part("PreTrainedTokenizerFast", folder)  # others would rebuild it from parts
        own = tokenizer.backend_tokenizer.normalizer
        lower = normalizers.Lowercase()  # as in training; the published file leaves it to whoever calls
        tokenizer.backend_tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
        return load_part("AutoImageProcessor", folder), tokenizer

    def tokenise(self, texts: list[str]):
        """Every text is padded to the full length, as in training, since its feature is taken at the last position."""
        fill = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens}
        return self.tokenizer(texts, return_attention_mask=True, return_tensors="pt", **fill)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.model.vision_model(pixels)
        hidden, head = outputs.last_hidden_state, self.model.vision_model.head  # (B, N, T)
        _, attention = head.attention(head.probe.expand(len(hidden), -1, -1), hidden, hidden)  # (B, 1, N), of all heads
        tokens = head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])  # (B, N, T)
        return {"pooled": outputs.pooler_output, "tokens": tokens, "attention": attention[:, 0]}

    def forward_text(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The encoder gets no mask, as in its training, so that it attends to the padding too."""
        outputs = self.model.text_model(ids, output_attentions=True)
        tokens = self.model.text_model.head(outputs.last_hidden_state)  # (B, L, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, -1] * mask  # (B, L), where the last position looks
        attention = attention.index_fill(1, ids.new_tensor([ids.shape[1] - 1]), 0.0)
        return {"pooled": outputs.pooler_output, "tokens": tokens, "attention": attention}
