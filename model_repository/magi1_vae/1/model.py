"""Holds the vae of MAGI-1."""

# Written by python -m videosdgx.serving.triton.repository.
from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
