"""Wan 2.1, one answer per request."""

from videosdgx.serving.sync_model import SyncModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
