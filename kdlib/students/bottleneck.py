"""The bottleneck student: a linear layer to a narrow width, ReLU, a linear layer to the embedding."""

from torch import Tensor, nn

from kdlib.students.student import Student, StudentSpec, standardised, unit


class Bottleneck(Student):
    """Two linear layers a side, with ``spec.bottleneck`` units between them, on the teacher's pooled feature."""

    reads = "features"

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        self.image = self._squeeze()
        if spec.text:
            self.text = self._squeeze()

    def _squeeze(self) -> nn.Sequential:
        spec = self.spec
        return nn.Sequential(
            nn.Linear(spec.teacher_width, spec.bottleneck), nn.ReLU(), nn.Linear(spec.bottleneck, spec.width)
        )

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D)."""
        return {"image": unit(self.image(standardised(batch["image"])))}
