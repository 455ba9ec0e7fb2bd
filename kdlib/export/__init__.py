"""A student as files that run without this package: ``kdlib export``, and :class:`Standalone` to load them again."""

from kdlib.export.folder import choose, export
from kdlib.export.graph import ExportError
from kdlib.export.standalone import Standalone

__all__ = ["ExportError", "Standalone", "choose", "export"]
