"""Engines on ONNX Runtime's CPU provider."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from videosdgx.artifacts import ArtifactError, Manifest
from videosdgx.engines.inputs import check_inputs

MODEL = "model.onnx"


def session_options(threads: int) -> ort.SessionOptions:
    """How every session of ours runs: `threads` (0: as many as cores), and no rewriting of quantized nodes.

    ONNX Runtime's QDQ transformations form float8 nodes that it has no kernel for when shapes are dynamic. Without
    them, dequantized weights are also folded once at load, which is what makes a quantized graph fast on a CPU.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Idle threads otherwise spin, and take the cores that the rest of the pipeline needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


class OnnxRuntimeEngine:
    """`model.onnx` of an artifact, on the CPU."""

    def __init__(self, directory: Path, manifest: Manifest, threads: int = 0) -> None:
        """Load the model; `directory` has been verified against `manifest` by the caller.

        Raises:
            ArtifactError: ONNX Runtime does not accept the model.
        """
        self.manifest = manifest
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                directory / MODEL, session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise ArtifactError(f"{directory / MODEL} cannot be loaded by ONNX Runtime: {error}") from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, with the dtypes and shapes that the manifest gives.

        Raises:
            ValueError: an input is missing, unknown, or has another dtype or shape than the manifest allows.
        """
        if self._session is None:
            raise RuntimeError("the engine is closed")
        check_inputs(self.manifest, inputs)
        names = [spec.name for spec in self.manifest.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Give the memory back. The engine cannot be run afterwards."""
        self._session = None
