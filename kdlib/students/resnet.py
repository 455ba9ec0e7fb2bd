"""ResNet on raw pixels, a projection in the place of its classifier. He et al., arXiv:1512.03385."""

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from kdlib.students.student import Student, StudentSpec, unit
from kdlib.students.torchvision_input import normalised


class NarrowResNet(ResNet):
    """torchvision's ResNet with one block a stage and a quarter of the channels behind the stem."""

    def _make_layer(self, block, planes: int, blocks: int, *args, **kwargs) -> nn.Sequential:
        return super()._make_layer(block, planes // 4, blocks, *args, **kwargs)


class ResNetStudent(Student):
    """``convnet``: 'full' is ResNet-18, 'narrow' a small one for the embedded study.

    The text side, where there is one, projects the teacher's text feature: the study's size counts no text.
    """

    reads = "pixels"

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        if spec.convnet == "narrow":
            self.trunk = NarrowResNet(BasicBlock, [1, 1, 1, 1])
            features = 512 // 4
        else:
            self.trunk = resnet18(weights=ResNet18_Weights.DEFAULT if spec.pretrained else None)
            features = self.trunk.fc.in_features
        self.trunk.fc = nn.Linear(features, spec.width)
        if spec.text:
            self.text = nn.Linear(spec.teacher_width, spec.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D), from pixels (B, 3, S, S) in [0, 1]."""
        return {"image": unit(self.trunk(normalised(batch["pixels"])))}
