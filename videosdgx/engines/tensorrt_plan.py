"""A compiled plan on a GPU, for the modules `tensorrt` and `tensorrt_rtx` alike: PyTorch's tensors in and out."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from videosdgx.artifacts import ArtifactError, Manifest


class TensorRTPlan:
    """A plan file of an artifact, on the first GPU. Buffers are PyTorch's, so memory is counted in one place."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Load the plan; its artifact has been verified against `manifest` by the caller.

        Raises:
            ArtifactError: there is no GPU, the runtime is not installed, or it does not accept the plan.
        """
        self._what = f"{manifest.component} ({path.name})"
        self._module = manifest.runtime
        if not torch.cuda.is_available():
            raise ArtifactError(
                f"{path.parent} needs an NVIDIA GPU ({manifest.target}); this machine has none that PyTorch can use"
            )
        try:
            trt = importlib.import_module(manifest.runtime)
        except ImportError as error:
            raise ArtifactError(f"{path.parent} needs the Python package {manifest.runtime}: {error}") from None
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine: Any = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise ArtifactError(
                f"{path} was made by {manifest.runtime} {manifest.versions.get(manifest.runtime, '')} and cannot "
                f"be loaded by {trt.__version__} on this GPU: export it again"
            )
        # Working memory for the profile in use only, not for the largest of all.
        strategy = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._context: Any = self._engine.create_execution_context(strategy)
        self._profile = -1
        self._nowhere = torch.empty(256, dtype=torch.uint8, device="cuda")
        dtypes = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._outputs = {
            name: dtypes[self._engine.get_tensor_dtype(name).name]
            for name in names
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        }

    def run(
        self, inputs: Mapping[str, torch.Tensor], profile: int, places: Mapping[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Outputs for contiguous `inputs`, all on the GPU, in PyTorch's current stream and with profile `profile`.

        Outputs named in `places` are written there, into contiguous buffers of the right size; the others into new ones.

        Raises:
            RuntimeError: the plan is closed, or TensorRT failed.
        """
        if self._context is None:
            raise RuntimeError("the engine is closed")
        stream = torch.cuda.current_stream().cuda_stream
        if profile != self._profile:
            self._context.set_optimization_profile_async(profile, stream)
            self._profile = profile
        for name, buffer in inputs.items():
            self._context.set_input_shape(name, tuple(buffer.shape))
            # An input without elements still needs an address.
            self._context.set_tensor_address(name, buffer.data_ptr() or self._nowhere.data_ptr())
        outputs = dict(places or {})
        for name, dtype in self._outputs.items():
            if name not in outputs:
                outputs[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device="cuda")
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        if not self._context.execute_async_v3(stream):
            raise RuntimeError(f"{self._module} failed to run {self._what}")
        return outputs

    def close(self) -> None:
        """Give the memory back. The plan cannot be run afterwards."""
        self._context = self._engine = None
        torch.cuda.empty_cache()
