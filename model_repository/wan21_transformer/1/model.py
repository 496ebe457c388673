"""Holds Wan 2.1's transformer, as an engine."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
