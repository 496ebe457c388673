"""Engines on TensorRT, for the modules `tensorrt` and `tensorrt_rtx` alike.

It needs an NVIDIA GPU. On a machine without one nothing here can run but the checks of inputs and profiles (see
`videosdgx.engines.inputs`), which are shared with the CPU's engine and tested there.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from videosdgx.artifacts import Manifest
from videosdgx.engines.inputs import check_inputs, choose_profile
from videosdgx.engines.tensorrt_plan import TensorRTPlan

PLAN = "engine.plan"


class TensorRTEngine:
    """`engine.plan` of an artifact, on the first GPU."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Load the engine; `directory` has been verified against `manifest` by the caller.

        Raises:
            ArtifactError: there is no GPU, the runtime is not installed, or it does not accept the engine.
        """
        self.manifest = manifest
        self._plan = TensorRTPlan(directory / PLAN, manifest)
        self._stream = torch.cuda.Stream()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, with the dtypes and shapes that the manifest gives.

        Raises:
            ValueError: an input is missing, unknown, or has another dtype or shape than the manifest allows.
            RuntimeError: the engine is closed, or TensorRT failed.
        """
        check_inputs(self.manifest, inputs)
        profile = choose_profile(self.manifest.profiles, {name: array.shape for name, array in inputs.items()})
        with torch.cuda.stream(self._stream):
            buffers = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in inputs.items()}
            outputs = self._plan.run(buffers, profile)
            return {spec.name: outputs[spec.name].cpu().numpy() for spec in self.manifest.outputs}

    def close(self) -> None:
        """Give the memory back. The engine cannot be run afterwards."""
        self._plan.close()
