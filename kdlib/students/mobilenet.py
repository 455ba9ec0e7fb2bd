"""MobileNetV3 small on pixels; a linear layer replaces its classifier. Howard et al., arXiv:1905.02244."""

from functools import partial

from torch import nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from kdlib.students.pixels import PixelStudent
from kdlib.students.student import StudentSpec

SMALL = 96  # pixels; for smaller images the stem has stride 1, or the last map would be 2 x 2 at 48 pixels
NARROW = 0.5  # share of the channels of the narrow network
EPS = 1e-3  # of the batch norms, as the published weights expect


class MobileNetStudent(PixelStudent):
    """``convnet``: 'full' is MobileNetV3 small, 'narrow' has half its channels.

    The batch norms have momentum 0.1, as in the other networks. With torchvision's 0.01 the running statistics would
    still be those of the initial weights after the first epochs of a small study.
    """

    @staticmethod
    def network(spec: StudentSpec) -> nn.Module:
        """Fresh weights: normalised pixels (B, 3, S, S) -> (B, D)."""
        norm = partial(nn.BatchNorm2d, eps=EPS)
        if spec.convnet == "narrow":
            trunk = mobilenet_v3_small(width_mult=NARROW, norm_layer=norm)
        else:
            weights = MobileNet_V3_Small_Weights.DEFAULT if spec.pretrained else None
            trunk = mobilenet_v3_small(weights=weights, norm_layer=norm)
        if spec.image_size < SMALL:
            trunk.features[0][0].stride = (1, 1)
        trunk.classifier = nn.Linear(trunk.classifier[0].in_features, spec.width)
        return trunk
