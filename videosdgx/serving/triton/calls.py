"""Calls from one Triton model to another (Triton's business logic scripting), as plain functions that raise."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# Triton gives the reason as text only; these are the phrases of its model manager and of its Python backend.
NOT_LOADED = ("is not ready", "is not found", "no available versions", "unknown model", "unloaded")
DIED = ("is not healthy", "Failed to initialize stub")


class CallFailed(Exception):
    """The called model answered with an error."""


class NotLoaded(CallFailed):
    """The called model is not loaded, perhaps because somebody unloaded it a moment ago."""


class Died(CallFailed):
    """The process of the called model is gone."""


def as_bytes(text: str) -> np.ndarray:
    """A text as a BYTES tensor [1]."""
    return np.array([text.encode()], dtype=np.object_)


def as_json(value: dict[str, Any]) -> np.ndarray:
    """A dictionary as a BYTES tensor [1]."""
    return as_bytes(json.dumps(value))


def _raise(message: str) -> None:
    if any(phrase in message for phrase in DIED):
        raise Died(message)
    if any(phrase in message for phrase in NOT_LOADED):
        raise NotLoaded(message)
    raise CallFailed(message)


def call(model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    """Run another model once, and return those of the `outputs` that it gave.

    Raises:
        NotLoaded, Died, CallFailed: with Triton's own message.
    """
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
    )
    try:
        response = request.exec()
    except pb_utils.TritonModelException as error:
        _raise(str(error))
    if response.has_error():
        _raise(response.error().message())
    # The arrays lie in memory that the response owns: copy them, as the response goes away here.
    return {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}


def manager(command: dict[str, Any]) -> dict[str, Any]:
    """Send a command to the engine manager and return its answer.

    Raises:
        CallFailed: the manager refused, with its reason.
    """
    answer: dict[str, Any] = json.loads(call("engine_manager", {"command": as_json(command)}, ["result"])["result"][0])
    return answer
