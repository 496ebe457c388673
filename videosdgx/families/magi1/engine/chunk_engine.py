"""MAGI-1's transformer as two compiled graphs (see `graphs.py`), with its buffers where the engine computes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from videosdgx.artifacts import Manifest
from videosdgx.engines.inputs import choose_profile
from videosdgx.families.magi1.engine import graphs


class ChunkEngine(Protocol):
    """Both graphs on one runtime. Tensors are on `device`."""

    device: torch.device

    def context(self) -> AbstractContextManager[None]:
        """To be entered around all work on the engine's tensors."""
        ...

    def encode_text(self, features: Tensor, text_kv: Tensor) -> None:
        """Fill `text_kv` [L,n,G,2d] from `features` [n,caption_channels] fp32."""
        ...

    def forward_chunk(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Fill all `outputs` of the chunk graph from all its `inputs`, in place."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class OnnxChunkEngine:
    """On ONNX Runtime's CPU provider."""

    device = torch.device("cpu")

    def __init__(self, directory: Path, threads: int = 0) -> None:
        from videosdgx.engines.onnxruntime_bound import BoundSession

        self._chunk = BoundSession(directory / graphs.CHUNK_ONNX, threads)
        self._text = BoundSession(directory / graphs.TEXT_ONNX, threads)

    def context(self) -> AbstractContextManager[None]:
        """Nothing: a run is over when it returns."""
        return nullcontext()

    def encode_text(self, features: Tensor, text_kv: Tensor) -> None:
        """Fill `text_kv`."""
        self._text.run({graphs.ENCODER_HIDDEN_STATES: features}, {graphs.TEXT_KV: text_kv})

    def forward_chunk(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Fill `outputs`."""
        self._chunk.run(inputs, outputs)

    def close(self) -> None:
        """Give the memory back."""
        del self._chunk, self._text


class TensorRTChunkEngine:
    """On the first GPU; what one run writes the next one reads from the same buffer, in the order of one stream."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        from videosdgx.engines.tensorrt_plan import TensorRTPlan

        self._manifest = manifest
        self._chunk = TensorRTPlan(directory / graphs.CHUNK_PLAN, manifest)
        self._text = TensorRTPlan(directory / graphs.TEXT_PLAN, manifest)
        self.device = torch.device("cuda")
        self._stream = torch.cuda.Stream()

    def context(self) -> AbstractContextManager[None]:
        """The stream in which the engine runs, and everything that fills or reads its buffers."""
        return torch.cuda.stream(self._stream)

    def encode_text(self, features: Tensor, text_kv: Tensor) -> None:
        """Fill `text_kv`. The text graph is small: it has one profile."""
        self._text.run({graphs.ENCODER_HIDDEN_STATES: features}, 0, {graphs.TEXT_KV: text_kv})

    def forward_chunk(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Fill `outputs`.

        Raises:
            ValueError: an input is outside every profile.
        """
        profile = choose_profile(self._manifest.profiles, {name: tuple(value.shape) for name, value in inputs.items()})
        self._chunk.run(inputs, profile, outputs)

    def close(self) -> None:
        """Give the memory back."""
        self._chunk.close()
        self._text.close()


def open_chunk_engine(directory: Path, manifest: Manifest, threads: int = 0) -> ChunkEngine:
    """The engine of an artifact that has been verified against `manifest`."""
    if manifest.runtime == "onnxruntime":
        return OnnxChunkEngine(directory, threads)
    return TensorRTChunkEngine(directory, manifest)
