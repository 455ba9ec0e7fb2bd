"""Students by method: the paper's six and two more. Another one: a Student in a file of its own, and a line below."""

from kdlib.registry import Registry
from kdlib.students.student import Student, StudentSpec, megabytes, standardised, unit

# Import paths, so that a student of the teacher's features never waits for torchvision to load.
_PATHS = {
    "projection": "kdlib.students.projection:Projection",
    "bottleneck": "kdlib.students.bottleneck:Bottleneck",
    "attention": "kdlib.students.attention:Attention",
    "cbam": "kdlib.students.cbam:CBAM",
    "resnet": "kdlib.students.resnet:ResNetStudent",
    "densenet": "kdlib.students.densenet:DenseNetStudent",
    "mobilenet": "kdlib.students.mobilenet:MobileNetStudent",
    "vit": "kdlib.students.vit:ViTStudent",
}
STUDENTS = Registry("student", _PATHS)

__all__ = ["STUDENTS", "Student", "StudentSpec", "build", "class_of", "megabytes", "standardised", "unit"]


def class_of(method: str) -> type[Student]:
    """The class of a method's student."""
    entry = STUDENTS[method]
    return STUDENTS[entry] if isinstance(entry, str) else entry


def build(method: str, spec: StudentSpec) -> Student:
    """A student with fresh weights; seed torch first to get the same ones again."""
    return class_of(method)(spec)
