"""Wan 2.1, with an event for each phase and step."""

from videosdgx.serving.models.stream import StreamModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
