"""MAGI-1, one answer per request."""

# Written by python -m videosdgx.serving.triton.repository.
from videosdgx.serving.models.sync import SyncModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
