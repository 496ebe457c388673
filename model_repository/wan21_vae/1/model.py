"""Holds Wan 2.1's video decoder."""

from videosdgx.serving.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
