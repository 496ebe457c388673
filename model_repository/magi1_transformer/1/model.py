"""Holds the transformer of MAGI-1, and what it keeps for each generation."""

# Written by python -m videosdgx.serving.triton.repository.
from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
