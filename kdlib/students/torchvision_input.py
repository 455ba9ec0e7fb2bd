"""How torchvision's networks want their pixels: ImageNet's mean and deviation, whatever the teacher uses."""

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> zero mean, unit deviation."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std
