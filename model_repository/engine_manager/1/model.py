"""The only one that loads components on behalf of requests."""

from videosdgx.serving.models.engine_manager import EngineManagerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
