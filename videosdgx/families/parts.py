"""Parts that several families have: text encoders of T5's kind, here and as stand-ins for those that run elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from videosdgx.artifacts import Manifest
from videosdgx.engines.engine import Engine
from videosdgx.families.networks import Run


def device_of(manifest: Manifest) -> torch.device:
    """Where PyTorch computes a component."""
    return torch.device("cpu" if manifest.target == "cpu" else "cuda")


def dtype_of(manifest: Manifest) -> torch.dtype:
    """What PyTorch computes a component in."""
    return torch.bfloat16 if manifest.precision == "bf16" else torch.float32


class TextEncoder:
    """An encoder of `transformers`: `input_ids`, `attention_mask` int64 [B,L] -> `last_hidden_state` float32 [B,L,D]."""

    def __init__(self, directory: Path, manifest: Manifest, model_class: Any):
        self.manifest = manifest
        self.device = device_of(manifest)
        self.model = model_class.from_pretrained(directory, dtype=dtype_of(manifest), use_safetensors=True)
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Encode token ids."""
        ids, mask = (torch.from_numpy(inputs[name]).to(self.device) for name in ("input_ids", "attention_mask"))
        return {"last_hidden_state": self.model(ids, mask).last_hidden_state.float().cpu().numpy()}

    def close(self) -> None:
        """Give the memory back."""
        del self.model


def open_t5(directory: Path, manifest: Manifest) -> Engine:
    """T5's encoder from an artifact that has been verified against `manifest`."""
    from transformers import T5EncoderModel

    return TextEncoder(directory, manifest, T5EncoderModel)


def open_umt5(directory: Path, manifest: Manifest) -> Engine:
    """UMT5's encoder, likewise."""
    from transformers import UMT5EncoderModel

    return TextEncoder(directory, manifest, UMT5EncoderModel)


class RemoteTextEncoder(torch.nn.Module):
    """Stands for the encoder in a pipeline. It is an (empty) module because pipelines ask their parts for their device."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Last hidden state [B,L,D] for token ids and mask [B,L]."""
        outputs = self.run({"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})
        return SimpleNamespace(last_hidden_state=torch.from_numpy(outputs["last_hidden_state"]))
