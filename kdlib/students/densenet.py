"""DenseNet on pixels; a linear layer to the embedding replaces its classifier. Huang et al., arXiv:1608.06993."""

from torch import nn
from torchvision.models import DenseNet, DenseNet121_Weights, densenet121

from kdlib.students.pixels import PixelStudent
from kdlib.students.student import StudentSpec


class DenseNetStudent(PixelStudent):
    """``convnet``: 'full' is DenseNet-121, 'narrow' a small one for the embedded study."""

    @staticmethod
    def network(spec: StudentSpec) -> nn.Module:
        """Fresh weights: normalised pixels (B, 3, S, S) -> (B, D)."""
        if spec.convnet == "narrow":
            trunk = DenseNet(growth_rate=12, block_config=(2, 3, 4, 3), num_init_features=24)
        else:
            trunk = densenet121(weights=DenseNet121_Weights.DEFAULT if spec.pretrained else None)
        trunk.classifier = nn.Linear(trunk.classifier.in_features, spec.width)
        return trunk
