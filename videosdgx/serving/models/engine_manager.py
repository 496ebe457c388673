"""The engine manager as a Triton model."""

import json
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from videosdgx.serving.engine_manager import EngineManager
from videosdgx.serving.settings import load_settings
from videosdgx.serving.triton.calls import as_json
from videosdgx.serving.triton.control import load_model, unload_model


class EngineManagerModel:
    """`TritonPythonModel` of `engine_manager`: JSON in, JSON out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start with no component loaded."""
        settings = load_settings()
        load, unload = (partial(action, settings.http_url()) for action in (load_model, unload_model))
        self.manager = EngineManager(settings, load, unload, pb_utils.is_model_ready)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer commands; each takes milliseconds, loading goes on in the background."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            text = pb_utils.get_input_tensor_by_name(request, "command").as_numpy()[0]
            result = self.manager.handle(json.loads(text))
        except Exception as error:  # errors are values (docs/design.md, rule 6)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"engine_manager: {error}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("result", as_json(result))])
