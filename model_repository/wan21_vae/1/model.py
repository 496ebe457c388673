"""Holds Wan 2.1's video decoder."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
