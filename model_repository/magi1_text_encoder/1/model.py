"""Holds MAGI-1's text encoder (T5)."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
