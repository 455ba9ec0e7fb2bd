"""A student as files that run without this package: ``kdlib export``, and :class:`ExportedStudent` to load them."""

from kdlib.export.folder import export
from kdlib.export.student import ExportedStudent

__all__ = ["ExportedStudent", "export"]
