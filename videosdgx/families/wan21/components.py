"""Wan 2.1's video decoder, with the interface of an engine: named arrays in, named arrays out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from videosdgx.artifacts import Manifest
from videosdgx.engines.engine import Engine
from videosdgx.families.parts import device_of


class VAE:
    """The decoder of `AutoencoderKLWan`: `latents` float32 [B,16,f,h,w] -> `video` float32 [B,3,F,H,W] in [-1,1]."""

    def __init__(self, directory: Path, manifest: Manifest):
        from diffusers import AutoencoderKLWan

        self.manifest = manifest
        self.device = device_of(manifest)
        self.model = AutoencoderKLWan.from_pretrained(directory, torch_dtype=torch.float32, use_safetensors=True)
        # Tiles of 256 pixels bound the memory of large frames; frames within one tile are decoded exactly as without.
        self.model.enable_tiling()
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decode latents that are no longer normalised."""
        latents = torch.from_numpy(inputs["latents"]).to(self.device)
        return {"video": self.model.decode(latents, return_dict=False)[0].float().cpu().numpy()}

    def close(self) -> None:
        """Give the memory back."""
        del self.model


def open_vae(directory: Path, manifest: Manifest) -> Engine:
    """The decoder: as TensorRT plans if the artifact is one of those, else in PyTorch."""
    if manifest.runtime == "torch":
        return VAE(directory, manifest)
    from videosdgx.families.wan21.vae_engine import EngineVAE

    return EngineVAE(directory, manifest)
