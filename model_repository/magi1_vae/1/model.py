"""Holds MAGI-1's video autoencoder."""

from videosdgx.serving.models.component import ComponentModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
