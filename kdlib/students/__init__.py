"""Students by method: the paper's six and MobileNetV3. Another one is a subclass of Student and an entry below."""

from kdlib.config import RunConfig
from kdlib.students.base import Inputs, Student, megabytes, standardised, unit
from kdlib.students.convnets import DenseNetStudent, MobileNetStudent, PixelStudent, ResNetStudent
from kdlib.students.heads import CBAM, Attention, Bottleneck, Projection
from kdlib.utils import find

STUDENTS = {
    "projection": Projection, "bottleneck": Bottleneck, "attention": Attention, "cbam": CBAM,
    "resnet": ResNetStudent, "densenet": DenseNetStudent, "mobilenet": MobileNetStudent,
}  # fmt: skip
__all__ = ["STUDENTS", "Inputs", "PixelStudent", "Student", "build", "class_of", "megabytes", "standardised", "unit"]


def class_of(method: str) -> type[Student]:
    """The class of a method's student; ``method`` may be 'package.module:Class'."""
    return find(STUDENTS, method, "student")


def build(config: RunConfig, inputs: Inputs) -> Student:
    """Fresh weights; seed torch first."""
    return class_of(config.method)(config, inputs)
