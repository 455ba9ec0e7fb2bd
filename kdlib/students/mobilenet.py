"""MobileNetV3 small on raw pixels, a projection in the place of its classifier. Howard et al., arXiv:1905.02244."""

from functools import partial

from torch import nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from kdlib.students.pixels import PixelStudent
from kdlib.students.student import StudentSpec

SMALL = 96  # pixels; below it the stem keeps the resolution, or the last map would be 2 x 2
NARROW = 0.5  # of the channels
EPS = 1e-3  # of its batch norms, as its published weights expect


class MobileNetStudent(PixelStudent):
    """``convnet``: 'full' is MobileNetV3 small, 'narrow' has half its channels.

    torchvision's batch norms forget in a hundred steps; here in ten, as in the other networks, or the first
    epochs of a small study would be scored on the statistics of the initial weights.
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
