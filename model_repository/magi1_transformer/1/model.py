"""Holds MAGI-1's transformer, as an engine, and what it keeps for each generation."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
