"""The projection student: one linear layer from the teacher's pooled feature to the embedding."""

from torch import Tensor, nn

from kdlib.students.student import Student, StudentSpec, standardised, unit


class Projection(Student):
    """One linear layer a side on the teacher's pooled feature."""

    reads = "features"

    def __init__(self, spec: StudentSpec):
        super().__init__(spec)
        self.image = nn.Linear(spec.teacher_width, spec.width)
        if spec.text:
            self.text = nn.Linear(spec.teacher_width, spec.width)

    def see(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """image (B, D)."""
        return {"image": unit(self.image(standardised(batch["image"])))}
