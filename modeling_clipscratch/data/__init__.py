"""Sources go in, rows and batches come out; knows no model."""

from .load import load_rows
from .rows import BadImageError, Rows

__all__ = ["BadImageError", "Rows", "load_rows"]
