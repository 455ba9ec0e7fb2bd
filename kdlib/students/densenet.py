"""DenseNet on raw pixels, a projection in the place of its classifier. Huang et al., arXiv:1608.06993."""

from torch import Tensor, nn
from torchvision.models import DenseNet, DenseNet121_Weights, densenet121

from kdlib.students.student import Student, StudentSpec, unit
from kdlib.students.torchvision_input import normalised


class DenseNetStudent(Student):
    """``convnet``: 'full' is DenseNet-121, 'narrow' a small one for the embedded study.

    The text side, where there is one, projects the teacher's text feature: the study's size counts no text.
    """

    reads = "pixels"

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        if spec.convnet == "narrow":
            self.trunk = DenseNet(growth_rate=12, block_config=(2, 3, 4, 3), num_init_features=24)
        else:
            self.trunk = densenet121(weights=DenseNet121_Weights.DEFAULT if spec.pretrained else None)
        self.trunk.classifier = nn.Linear(self.trunk.classifier.in_features, spec.width)
        if spec.text:
            self.text = nn.Linear(spec.teacher_width, spec.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D), from pixels (B, 3, S, S) in [0, 1]."""
        return {"image": unit(self.trunk(normalised(batch["pixels"])))}
