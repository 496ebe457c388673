"""The only one that loads components on behalf of requests."""

# Written by python -m videosdgx.serving.triton.repository.
from videosdgx.serving.models.engine_manager import EngineManagerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
