"""Students that read pixels: ResNet, DenseNet, MobileNetV3; and the transformer that reads texts beside them."""

import math
import re
from functools import partial

import torch
from torch import Tensor, nn

from kdlib.config import RunConfig
from kdlib.students.base import Inputs, Student, unit
from kdlib.students.heads import HEADS

# torchvision takes seconds to import: only the functions that need it do.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, whatever normalisation the teacher uses
SMALL = 96  # pixels; for smaller images MobileNet's stem has stride 1, or its last map would be 2 x 2 at 48 pixels
LAYERS, LONGEST = 2, 77  # of the text transformer; it reads the first 77 tokens of a text, as CLIP does


class PixelStudent(Student):
    """A network from normalised pixels (B, 3, S, S) to (B, D), which a subclass defines as ``network(config)``.

    Its text side, where there is one: a projection of the teacher's text feature, as in the paper, or a transformer.
    """

    reads = "pixels"

    def __init__(self, config: RunConfig, inputs: Inputs):
        super().__init__(config, inputs)
        self.image = self.network(config)
        if self.text_reads == "ids":
            self.text: nn.Module = TextTransformer(inputs.vocabulary, config.width)
        elif inputs.text:
            self.text = nn.Linear(inputs.teacher_width, config.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = batch["pixels"]  # (B, 3, S, S) in [0, 1]
        mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        return {"image": unit(self.image((pixels - mean) / std))}


def _load(network: nn.Module, weights) -> None:
    """torchvision's ImageNet weights, by weights_only as everywhere, which its own builders do not ask for."""
    try:
        state = weights.get_state_dict(check_hash=True, weights_only=True)
    except OSError as error:
        remedy = f"Put the file into {torch.hub.get_dir()}/checkpoints, or set pretrained to false."
        raise OSError(f"{weights.url} cannot be downloaded: {error}. {remedy}") from error
    old = re.compile(r"\.(norm|conv)\.([12])\.")  # DenseNet's file has names of an older torchvision
    network.load_state_dict({old.sub(r".\1\2.", name): value for name, value in state.items()})


class ResNetStudent(PixelStudent):
    """'full' is ResNet-18, 'narrow' has a block a stage and a quarter of the channels. He et al., arXiv:1512.03385."""

    @staticmethod
    def network(config: RunConfig) -> nn.Module:
        from torchvision.models import ResNet18_Weights, resnet

        class NarrowResNet(resnet.ResNet):
            def _make_layer(self, block, planes: int, *args, **kwargs) -> nn.Sequential:
                return super()._make_layer(block, planes // 4, *args, **kwargs)

        full = config.convnet == "full"
        network = resnet.resnet18() if full else NarrowResNet(resnet.BasicBlock, [1, 1, 1, 1])
        if config.pretrained:
            _load(network, ResNet18_Weights.DEFAULT)
        network.fc = nn.Linear(512 if full else 128, config.width)
        return network


class DenseNetStudent(PixelStudent):
    """'full' is DenseNet-121, 'narrow' a small one for the demo study. Huang et al., arXiv:1608.06993."""

    @staticmethod
    def network(config: RunConfig) -> nn.Module:
        from torchvision.models import DenseNet, DenseNet121_Weights

        narrow = {"growth_rate": 12, "block_config": (2, 3, 4, 3), "num_init_features": 24}
        network = DenseNet(**(narrow if config.convnet == "narrow" else {}))
        if config.pretrained:
            _load(network, DenseNet121_Weights.DEFAULT)
        network.classifier = nn.Linear(network.classifier.in_features, config.width)
        return network


class MobileNetStudent(PixelStudent):
    """'full' is MobileNetV3 small, 'narrow' has half its channels. Howard et al., arXiv:1905.02244."""

    @staticmethod
    def network(config: RunConfig) -> nn.Module:
        from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

        # eps as the published weights expect; momentum 0.1, since with 0.01 a small study keeps the initial statistics.
        norm = partial(nn.BatchNorm2d, eps=1e-3)
        network = mobilenet_v3_small(width_mult=1.0 if config.convnet == "full" else 0.5, norm_layer=norm)
        if config.pretrained:
            _load(network, MobileNet_V3_Small_Weights.DEFAULT)
        if config.image_size < SMALL:
            network.features[0][0].stride = (1, 1)
        network.classifier = nn.Linear(network.classifier[0].in_features, config.width)
        return network


class TextTransformer(nn.Module):
    """Ids of kdlib.loader.Vocabulary to embeddings with positions, pre-norm layers, their mean, a linear layer."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        if not vocabulary:
            raise ValueError("text_side is 'transformer', but the features have no token ids. Set it to 'teacher'.")
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(LONGEST, width))
        shape = width, math.gcd(width, HEADS), 4 * width, 0.0, "gelu"
        # Not nn.TransformerEncoder, whose layers begin as copies of one.
        layers = [nn.TransformerEncoderLayer(*shape, batch_first=True, norm_first=True) for _ in range(LAYERS)]
        self.layers, self.norm = nn.ModuleList(layers), nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, L) and mask (B, L), true for tokens -> (B, D), of any length."""
        ids, mask = ids[:, :LONGEST], mask[:, :LONGEST]
        mask = mask | (torch.arange(ids.shape[1], device=ids.device) == 0)  # softmax over no token would be NaN
        tokens = self.tokens(ids) + self.places[: ids.shape[1]]  # (B, L, D)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~mask)
        weight = mask.to(tokens.dtype)[..., None]
        return self.project((self.norm(tokens) * weight).sum(dim=1) / weight.sum(dim=1))
