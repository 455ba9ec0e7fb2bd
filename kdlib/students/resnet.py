"""ResNet on pixels; a linear layer to the embedding replaces its classifier. He et al., arXiv:1512.03385."""

from torch import nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from kdlib.students.pixels import PixelStudent
from kdlib.students.student import StudentSpec


class NarrowResNet(ResNet):
    """torchvision's ResNet with a quarter of the channels after the stem."""

    def _make_layer(self, block, planes: int, blocks: int, *args, **kwargs) -> nn.Sequential:
        return super()._make_layer(block, planes // 4, blocks, *args, **kwargs)


class ResNetStudent(PixelStudent):
    """``convnet``: 'full' is ResNet-18, 'narrow' a small one for the embedded study."""

    @staticmethod
    def network(spec: StudentSpec) -> nn.Module:
        """Fresh weights: normalised pixels (B, 3, S, S) -> (B, D)."""
        if spec.convnet == "narrow":
            trunk = NarrowResNet(BasicBlock, [1, 1, 1, 1])
            features = 512 // 4
        else:
            trunk = resnet18(weights=ResNet18_Weights.DEFAULT if spec.pretrained else None)
            features = trunk.fc.in_features
        trunk.fc = nn.Linear(features, spec.width)
        return trunk
