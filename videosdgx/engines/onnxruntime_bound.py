"""An ONNX Runtime session on the CPU that reads and writes PyTorch's tensors where they are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from videosdgx.artifacts import ArtifactError
from videosdgx.engines.onnxruntime_engine import session_options

NUMPY = {
    torch.float32: np.float32, torch.float16: np.float16, torch.bool: np.bool_, torch.int64: np.int64,
}  # fmt: skip


class BoundSession:
    """A graph whose inputs and outputs are contiguous CPU tensors: nothing is copied on the way in or out."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the graph; its artifact has been verified by the caller. `threads`: 0 for as many as cores.

        Raises:
            ArtifactError: ONNX Runtime does not accept it.
        """
        try:
            self._session = ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise ArtifactError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        # Where an empty tensor is said to lie.
        self._nowhere = torch.empty(1)

    def run(self, inputs: Mapping[str, torch.Tensor], places: Mapping[str, torch.Tensor]) -> None:
        """Run on `inputs` and write all outputs into `places`, which have their shapes."""
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, "cpu", 0, NUMPY[tensor.dtype], tuple(tensor.shape), self._address(tensor))
        for name, tensor in places.items():
            binding.bind_output(name, "cpu", 0, NUMPY[tensor.dtype], tuple(tensor.shape), self._address(tensor))
        self._session.run_with_iobinding(binding)

    def _address(self, tensor: torch.Tensor) -> int:
        if not tensor.is_contiguous():
            raise ValueError("a tensor that is bound to a graph must be contiguous")
        return tensor.data_ptr() or self._nowhere.data_ptr()
