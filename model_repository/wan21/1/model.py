"""Wan 2.1, one answer per request."""

from videosdgx.serving.models.sync import SyncModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
