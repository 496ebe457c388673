"""Pixels to the autoencoder's range and back (docs/specs/magi1.md, section 10.2)."""

import torch
from torch import Tensor


def pixels_to_video(pixels: Tensor) -> Tensor:
    """Frames uint8 [F, H, W, 3] -> video fp32 [1, 3, F, H, W] in [-1, 1]."""
    return (pixels.float() / 127.5 - 1).permute(3, 0, 1, 2)[None]


def video_to_pixels(video: Tensor, reference_behaviour: bool = False) -> Tensor:
    """Video [1, 3, F, H, W], clamped to [-1, 1] -> frames uint8 [F, H, W, 3].

    The original cuts the fraction off, which darkens by half a level: so does `reference_behaviour`; the default rounds.
    """
    values = (video[0].permute(1, 2, 3, 0).float() * 127.5 + 127.5).clamp(0, 255)
    return (values if reference_behaviour else values.round()).to(torch.uint8)
