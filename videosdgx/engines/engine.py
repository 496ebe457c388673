"""The interface of every engine, and the one function that opens an artifact's engine with the right runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from videosdgx.artifacts import ArtifactError, Manifest, verify


class Engine(Protocol):
    """A loaded network. Tensors are numpy arrays in host memory (docs/design.md, rule 5)."""

    manifest: Manifest

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, with the dtypes and shapes that the manifest gives."""
        ...

    def close(self) -> None:
        """Give the memory back. The engine cannot be run afterwards."""
        ...


class StatefulEngine(Engine, Protocol):
    """An engine that keeps something for each generation, until it is told that the generation is over.

    `on_change` is called with the facts whenever they change, perhaps in another thread.
    """

    on_change: Callable[[dict[str, int]], None]

    def release(self, generation: str) -> None:
        """Drop what is kept for a generation; nothing happens if there is nothing."""
        ...

    def facts(self) -> dict[str, int]:
        """`generations`: for how many something is kept, and `state_bytes`: in how many bytes."""
        ...


def open_engine(directory: Path, manifest: Manifest | None = None, threads: int = 0) -> Engine:
    """Load the engine of an artifact.

    Args:
        directory: of the artifact.
        manifest: its manifest, if the caller has verified it; else that is done here.
        threads: of runtimes for the CPU (0: as many as cores).

    Raises:
        ArtifactError: the artifact is not whole, or names a runtime that holds no engine.
    """
    manifest = manifest or verify(directory)
    # The runtimes are imported where they are needed: each is large, and a machine has one of them.
    if manifest.runtime == "onnxruntime":
        from videosdgx.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(directory, manifest, threads)
    if manifest.runtime in ("tensorrt", "tensorrt_rtx"):
        from videosdgx.engines.tensorrt_engine import TensorRTEngine

        return TensorRTEngine(directory, manifest)
    raise ArtifactError(f"{directory} is for runtime {manifest.runtime!r}, which runs no engine")
