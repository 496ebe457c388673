"""Wan 2.1, with an event for each phase and step."""

# Written by python -m videosdgx.serving.triton.repository.
from videosdgx.serving.models.stream import StreamModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
