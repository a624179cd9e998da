"""The one table of export formats."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mast_export.errors import ExportError

if TYPE_CHECKING:
    from mast_export.formats.base import Format

FORMATS = {
    "mast": "bundle",
    "onnx": "onnx",
    "onnx-sparse": "onnx",
    "c": "c",
}
"""--format value -> the module of this package that writes it; its FORMATS says how (mast_export.formats.base)."""


def find_format(name: str) -> Format:
    """The named format. Raises ExportError."""
    if name not in FORMATS:
        raise ExportError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}")
    return import_module(f"{__name__}.{FORMATS[name]}").FORMATS[name]
