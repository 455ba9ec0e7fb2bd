"""SigLIP 2: image and text encoders trained with a sigmoid loss on each pair. Tschannen et al., arXiv:2502.14786.

Its class in transformers is SigLIP's (Zhai et al., arXiv:2303.15343), so checkpoints of SigLIP load too.
"""

from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor, load_tokenizer
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "google/siglip2-base-patch16-224"
REVISION = "75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2"


class SiglipTeacher(Teacher):
    """The pooled outputs of both encoders. A token's feature is the pooling head's output for that token alone."""

    def tokenize(self, texts: list[str]):
        """Texts -> ``input_ids`` and ``attention_mask`` (B, ``max_tokens``).

        Every text is padded to the full length, as in training, since the text feature is taken at the last position.
        """
        fill = {"padding": "max_length", "truncation": True, "max_length": self.max_tokens}
        return self.tokenizer(texts, return_attention_mask=True, return_tensors="pt", **fill)

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N), which is the pooling head's own."""
        outputs = self.model.vision_model(pixels)
        hidden, head = outputs.last_hidden_state, self.model.vision_model.head  # (B, N, T)
        _, attention = head.attention(head.probe.expand(len(hidden), -1, -1), hidden, hidden)  # (B, 1, N), of all heads
        tokens = head(hidden.flatten(0, 1)[:, None]).unflatten(0, hidden.shape[:2])  # (B, N, T)
        return {"pooled": outputs.pooler_output, "tokens": tokens, "attention": normalised(attention[:, 0])}

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """(B, L) ids and mask -> pooled (B, T), tokens (B, L, T), attention (B, L) over the words.

        The encoder gets no mask, as in its training, so that it attends to the padding too.
        """
        outputs = self.model.text_model(ids, output_attentions=True)
        tokens = self.model.text_model.head(outputs.last_hidden_state)  # (B, L, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, -1] * mask  # (B, L), where the last position looks
        attention = attention.index_fill(1, ids.new_tensor([ids.shape[1] - 1]), 0.0)
        return {"pooled": outputs.pooler_output, "tokens": tokens, "attention": normalised(attention)}

    @property
    def max_tokens(self) -> int:
        """The length of every tokenized text: shorter texts are padded, longer ones cut."""
        return self.model.config.text_config.max_position_embeddings

    @property
    def logit_scale(self) -> float:
        """The factor from cosines to logits that the checkpoint was trained with; its bias cancels in a softmax."""
        return self.model.logit_scale.exp().item()


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, tokenizer."""
    from tokenizers import normalizers
    from transformers import SiglipModel

    model, missing = load_model(SiglipModel, folder)
    tokenizer = load_tokenizer(folder, whole=True)
    tokenizer.padding_side = "right"
    own = tokenizer.backend_tokenizer.normalizer
    lower = normalizers.Lowercase()  # as in training; the published file leaves it to whoever calls
    tokenizer.backend_tokenizer.normalizer = lower if own is None else normalizers.Sequence([lower, own])
    return SiglipTeacher, model, missing, load_processor(folder), tokenizer
