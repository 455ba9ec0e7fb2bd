"""Vision-only teachers. DINO, DINOv2 and DINOv3 learnt without labels, BEiT from visual tokens and ImageNet-22k."""

from torch import Tensor, nn

from kdlib.teachers.base import Teacher


class Dino(Teacher):
    """The class token after the last norm, as its authors evaluate it. Caron et al., arXiv:2104.14294."""

    DEFAULT = "facebook/dino-vitb16"
    REVISION = "a77533c84408875b30b5e8beb766c82a5be82bf4"  # refs/pr/7, which has safetensors
    MODELS = (("vit", "ViTModel"),)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.model(pixels, output_attentions=True)
        hidden = outputs.last_hidden_state  # (B, 1 + R + N, T), after the last norm
        first = 1 + getattr(self.model.config, "num_register_tokens", 0)  # registers stand for no place of the image
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, first:]  # (B, N), where the class token looks
        return {"pooled": hidden[:, 0], "tokens": hidden[:, first:], "attention": attention}


class Dinov2(Dino):
    """With and without registers. Oquab et al., arXiv:2304.07193; registers: Darcet et al., arXiv:2309.16588."""

    DEFAULT = "facebook/dinov2-base"
    REVISION = "f9e44c814b77203eaa57a6bdbbd535f21ede1415"
    MODELS = (("dinov2", "Dinov2Model"), ("dinov2_with_registers", "Dinov2WithRegistersModel"))

    @property
    def image_size(self) -> int:
        """What the preprocessing gives: the configuration states the size of pretraining, 518 pixels in DINOv2."""
        size = self.preprocess.crop_size if getattr(self.preprocess, "do_center_crop", False) else self.preprocess.size
        return size.get("height") or size["shortest_edge"]  # the audit refuses what is not square


class Dinov3(Dinov2):
    """Siméoni et al., arXiv:2508.10104. Gated: accept its conditions on the hub, and log in for the first run."""

    DEFAULT = "facebook/dinov3-vitb16-pretrain-lvd1689m"
    REVISION = "5931719e67bbdb9737e363e781fb0c67687896bc"
    MODELS = (("dinov3_vit", "DINOv3ViTModel"),)


class Beit(Teacher):
    """The mean of the patch tokens, normed: what its classifier reads. Bao et al., arXiv:2106.08254."""

    DEFAULT = "microsoft/beit-base-patch16-224-pt22k-ft22k"
    REVISION = "dcb1f16cdebbc51eab67c0e1960d64adb8596669"  # refs/pr/2; without ft22k k-NN is 4.5 % (unilm issue 419)
    MODELS = (("beit", "BeitModel"),)

    def forward_image(self, pixels: Tensor) -> dict[str, Tensor]:
        outputs = self.model(pixels, output_attentions=True)
        tokens = outputs.last_hidden_state[:, 1:]  # (B, N, T)
        norm = self.model.pooler.layernorm or nn.Identity()  # after the mean, so the tokens go through it too
        attention = outputs.attentions[-1].mean(dim=1)[:, 0, 1:]  # (B, N), where the class token looks
        return {"pooled": norm(tokens.mean(dim=1)), "tokens": norm(tokens), "attention": attention}
