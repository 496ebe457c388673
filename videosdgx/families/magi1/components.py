"""MAGI-1's autoencoder, with the interface of an engine: named arrays in, named arrays out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from videosdgx.artifacts import Manifest
from videosdgx.families.parts import device_of, dtype_of


class VAE:
    """`AutoencoderKLMagi`, one chunk or prefix at a time, in its own tiles.

    Decodes `latents` float32 [B,16,T,h,w] (divided by the scaling factor) to `video` float32 [B,3,4T,8h,8w], or encodes
    `video` float32 [B,3,F,H,W] in [-1,1] to `latents`, the mean of the distribution.
    """

    def __init__(self, directory: Path, manifest: Manifest):
        from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi

        self.manifest = manifest
        self.device = device_of(manifest)
        self.model = AutoencoderKLMagi.from_pretrained(directory, torch_dtype=dtype_of(manifest), use_safetensors=True)
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decode or encode, whichever input is given.

        Raises:
            ValueError: both are given, or none.
        """
        if len(inputs) != 1:
            raise ValueError("give either latents to decode or video to encode")
        ((name, array),) = inputs.items()
        given = torch.from_numpy(array).to(self.device, self.model.dtype)
        if name == "latents":
            return {"video": self.model.decode(given).sample.float().cpu().numpy()}
        return {"latents": self.model.encode(given).latent_dist.mode().float().cpu().numpy()}

    def close(self) -> None:
        """Give the memory back."""
        del self.model
