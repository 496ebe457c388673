"""Holds Wan 2.1's text encoder (UMT5)."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
