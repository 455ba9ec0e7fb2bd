"""DINOv3: a ViT with registers, trained without labels on 1.7 billion images. Siméoni et al., arXiv:2508.10104.

The repository is gated: its conditions are accepted on the hub's page, and the first run needs a login.
"""

from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor, shown_size
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "facebook/dinov3-vitb16-pretrain-lvd1689m"
REVISION = "5931719e67bbdb9737e363e781fb0c67687896bc"


class Dinov3Teacher(Teacher):
    """The class token after the last norm. Register tokens stand for no place of the image and are left out."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs = self.model(pixels, output_attentions=True)
        hidden = outputs.last_hidden_state  # (B, 1 + R + N, T), after the last norm
        first = 1 + self.model.config.num_register_tokens
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, first:]  # (B, N)
        return {"pooled": hidden[:, 0], "tokens": hidden[:, first:], "attention": normalised(attention)}

    @property
    def image_size(self) -> int:
        """What the preprocessing gives: positions are relative, so that every size can be looked at."""
        return shown_size(self.preprocess)


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, no tokenizer."""
    from transformers import DINOv3ViTModel

    model, missing = load_model(DINOv3ViTModel, folder)
    return Dinov3Teacher, model, missing, load_processor(folder), None
