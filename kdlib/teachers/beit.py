"""BEiT: a ViT pretrained on visual tokens and fine-tuned on ImageNet-22k; the mean of its patch tokens.

Bao et al., arXiv:2106.08254. Take a fine-tuned checkpoint (ft22k): without it the features are poor
(k-NN 4.5 %, microsoft/unilm issue 419).
"""

from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "microsoft/beit-base-patch16-224-pt22k-ft22k"
REVISION = "dcb1f16cdebbc51eab67c0e1960d64adb8596669"  # refs/pr/2, which has safetensors


class BeitTeacher(Teacher):
    """The mean of the patch tokens, normed: what BEiT's classifier reads."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs = self.model(pixels, output_attentions=True)
        tokens = outputs.last_hidden_state[:, 1:]  # (B, N, T)
        # BEiT's last norm comes after the mean (pooler.layernorm); the tokens go through the same one.
        norm = self.model.pooler.layernorm
        pooled = tokens.mean(dim=1)
        if norm is not None:
            pooled, tokens = norm(pooled), norm(tokens)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N), where the class token looks
        return {"pooled": pooled, "tokens": tokens, "attention": normalised(attention)}


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, no tokenizer."""
    from transformers import BeitModel

    model, missing = load_model(BeitModel, folder)
    return BeitTeacher, model, missing, load_processor(folder), None
