"""What Triton's Python backend offers to models (`triton_python_backend_utils`), as far as tests without a server need it.

To be imported before anything of `videosdgx.serving` that imports the real one, which exists in Triton's processes only.
"""

import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np


class Tensor:
    def __init__(self, name: str, array: np.ndarray):
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError(Exception):
    INVALID_ARG, CANCELLED, UNAVAILABLE, INTERNAL = "INVALID_ARG", "CANCELLED", "UNAVAILABLE", "INTERNAL"

    def __init__(self, text: str, code: str = "INTERNAL"):
        super().__init__(text)
        self.text, self.kind = text, code

    def message(self) -> str:
        return self.text


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None):
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class Request:
    """A request as a model gets it."""

    def __init__(self, **tensors: np.ndarray):
        self._tensors = [Tensor(name, array) for name, array in tensors.items()]

    def inputs(self) -> list[Tensor]:
        return self._tensors


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


class TritonModelException(Exception):
    pass


module = ModuleType("triton_python_backend_utils")
for _name in ("Tensor", "TritonError", "InferenceResponse", "get_input_tensor_by_name", "TritonModelException"):
    setattr(module, _name, globals()[_name])
module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1  # type: ignore[attr-defined]
sys.modules.setdefault(module.__name__, module)
