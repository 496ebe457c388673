"""The only one that loads components on behalf of requests."""

from videosdgx.serving.engine_manager_model import EngineManagerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
