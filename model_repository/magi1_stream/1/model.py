"""MAGI-1, with an event for each phase and step, and each chunk as soon as it is made."""

from videosdgx.serving.models.stream import StreamModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
