"""The interface of every engine, and the one function that opens an artifact's engine with the right runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from videosdgx.artifacts import ArtifactError, Manifest, verify


class Engine(Protocol):
    """A loaded network. Tensors are numpy arrays in host memory (rule 5 of the design)."""

    manifest: Manifest

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, with the dtypes and shapes that the manifest gives."""
        ...

    def close(self) -> None:
        """Give the memory back. The engine cannot be run afterwards."""
        ...


def open_engine(directory: Path, threads: int = 0) -> Engine:
    """Verify the artifact's digests and load its engine. `threads` limits CPU runtimes (0: as many as cores).

    Raises:
        ArtifactError: the artifact is not whole, or names a runtime that holds no engine.
    """
    manifest = verify(directory)
    # The runtimes are imported where they are needed: each is large, and a machine has one of them.
    if manifest.runtime == "onnxruntime":
        from videosdgx.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(directory, manifest, threads)
    if manifest.runtime in ("tensorrt", "tensorrt_rtx"):
        from videosdgx.engines.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(directory, manifest)
    raise ArtifactError(f"{directory} is for runtime {manifest.runtime!r}, which runs no engine")
