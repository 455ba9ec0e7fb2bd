"""DINOv2, with and without registers: a ViT trained without labels on 142 million curated images.

Oquab et al., arXiv:2304.07193; registers: Darcet et al., arXiv:2309.16588.
"""

import json

from torch import Tensor

from kdlib.teachers.loading import load_model, load_processor, shown_size
from kdlib.teachers.teacher import Teacher, normalised

DEFAULT = "facebook/dinov2-base"
REVISION = "f9e44c814b77203eaa57a6bdbbd535f21ede1415"


class Dinov2Teacher(Teacher):
    """The class token after the last norm. Register tokens stand for no place of the image and are left out."""

    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> pooled (B, T), tokens (B, N, T), attention (B, N)."""
        outputs = self.model(pixels, output_attentions=True)
        hidden = outputs.last_hidden_state  # (B, 1 + R + N, T), after the last norm
        first = 1 + getattr(self.model.config, "num_register_tokens", 0)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, first:]  # (B, N)
        return {"pooled": hidden[:, 0], "tokens": hidden[:, first:], "attention": normalised(attention)}

    @property
    def image_size(self) -> int:
        """What the preprocessing gives: the configuration states the size of pretraining, 518 pixels in DINOv2."""
        return shown_size(self.preprocess)


def load(folder):
    """Class, model, names of weights that the checkpoint lacks, preprocessing, no tokenizer."""
    from transformers import Dinov2Model, Dinov2WithRegistersModel

    with_registers = "num_register_tokens" in json.loads((folder / "config.json").read_text())
    model, missing = load_model(Dinov2WithRegistersModel if with_registers else Dinov2Model, folder)
    return Dinov2Teacher, model, missing, load_processor(folder), None
