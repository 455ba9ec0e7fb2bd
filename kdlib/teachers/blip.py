"""BLIP: the image-text contrastive (ITC) space of BlipForImageTextRetrieval. Li et al., arXiv:2201.12086.

Not BlipModel: no public checkpoint carries its projections, which are then random (transformers issues
25024, 28034, 37486; the likely cause of the study's BLIP numbers, see the README).
"""

from torch import Tensor

from kdlib.teachers.teacher import Teacher, load_model, normalised

DEFAULT = "Salesforce/blip-itm-base-coco"
LONGEST_TEXT = 35  # tokens, as in BLIP's retrieval


class BlipTeacher(Teacher):
    def look(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.model.vision_model(pixels, output_attentions=True)
        joint = self.model.vision_proj(outputs.last_hidden_state)  # (B, 1 + N, T), already normed
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N)
        return {"pooled": joint[:, 0], "tokens": joint[:, 1:], "attention": normalised(attention)}

    def read(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        outputs = self.model.text_encoder(ids, attention_mask=mask, output_attentions=True)
        joint = self.model.text_proj(outputs.last_hidden_state)  # (B, L, T)
        attention = outputs.attentions[-1].mean(dim=1)[:, 0] * mask  # (B, L), where [CLS] looks
        attention = attention.index_fill(1, ids.new_zeros(1), 0.0)
        return {"pooled": joint[:, 0], "tokens": joint, "attention": normalised(attention)}

    @property
    def max_tokens(self) -> int:
        return min(LONGEST_TEXT, self.model.config.text_config.max_position_embeddings)


def load(folder):
    """Model, names of weights that the checkpoint lacks, preprocessing, tokenizer."""
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

    model, missing = load_model(BlipForImageTextRetrieval, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return BlipTeacher, model, missing, AutoImageProcessor.from_pretrained(folder), tokenizer
