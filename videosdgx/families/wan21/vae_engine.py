"""Wan 2.1's video decoder on two TensorRT plans, with the interface of `VAE`: latents in, video out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videosdgx.artifacts import Manifest
from videosdgx.engines.inputs import choose_profile
from videosdgx.engines.tensorrt_plan import TensorRTPlan
from videosdgx.families.wan21.vae_loop import FRAMES, LATENT, SPATIAL, DecoderLoop, Tiling

FIRST_PLAN, NEXT_PLAN = "first.plan", "next.plan"


class DeviceStep:
    """One step's plan: `latent` and `frames` are numpy arrays, the cache stays on the GPU."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.plan = TensorRTPlan(path, manifest)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for `latent` fp32 [B,16,1,h,w] and, but for the first step, the cache.

        Raises:
            ValueError: the latent is larger than every profile.
        """
        latent = inputs[LATENT]
        profile = choose_profile(self.manifest.profiles, {LATENT: latent.shape})
        outputs: dict[str, Any] = dict(self.plan.run({**inputs, LATENT: torch.from_numpy(latent).cuda()}, profile))
        # Waits for this step, so what it read may be given back.
        outputs[FRAMES] = outputs[FRAMES].cpu().numpy()
        return outputs


def whole_sizes(manifest: Manifest) -> tuple[tuple[int, int], ...]:
    """(height, width) in pixels of the largest frames that an artifact's profiles take, largest profile last."""
    sides = [profile.max[LATENT][3:] for profile in manifest.profiles]
    return tuple(sorted((SPATIAL * height, SPATIAL * width) for height, width in sides))


class EngineVAE:
    """The decoder of `AutoencoderKLWan`: `latents` float32 [B,16,f,h,w] -> `video` float32 [B,3,F,H,W] in [-1,1]."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Load the two plans; `directory` has been verified against `manifest` by the caller.

        Raises:
            ArtifactError: there is no GPU, the runtime is not installed, or it does not accept a plan.
        """
        self.manifest = manifest
        config = json.loads((directory / "config.json").read_bytes())
        first, following = (DeviceStep(directory / name, manifest) for name in (FIRST_PLAN, NEXT_PLAN))
        self._steps = (first, following)
        self._loop = DecoderLoop(first, following, Tiling(), whole_sizes(manifest), config.get("patch_size") or 1)
        self._channels, self._stream = config["z_dim"], torch.cuda.Stream()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decode latents that are no longer normalised.

        Raises:
            ValueError: `latents` has another dtype or shape, or more clips than the engine takes.
        """
        latents = inputs["latents"]
        if latents.dtype != np.float32 or latents.ndim != 5 or latents.shape[1] != self._channels or not latents.size:
            wanted = f"float32 [batch, {self._channels}, frames, height, width]"
            raise ValueError(f"input latents is {latents.dtype} {list(latents.shape)}, this engine takes {wanted}")
        with torch.cuda.stream(self._stream):
            return {"video": self._loop.decode(latents)}

    def close(self) -> None:
        """Give the memory back. The engine cannot be run afterwards."""
        for step in self._steps:
            step.plan.close()
