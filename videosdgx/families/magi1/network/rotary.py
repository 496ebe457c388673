"""Rotary position embedding with learnable frequencies (docs/specs/magi1.md, section 3.2). Everything in fp32."""

import math

import torch
from torch import Tensor, nn


def token_positions(first_frame: int, frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Positions of a block of tokens: time slowest, then height, then width fastest.

    Time counts latent frames from the start of the video; height and width are centred and scaled so that any grid covers
    what one of 16 x 16 tokens does.

    Args:
        first_frame: absolute index of the first latent frame.
        frames: number of latent frames.
        height: of the grid, in tokens; at least 2.
        width: likewise.
        device: of the result.

    Returns:
        [frames * height * width, 3] fp32.

    Raises:
        ValueError: an axis has a single token (the scale would be a division by zero).
    """
    if height < 2 or width < 2:
        raise ValueError(f"a grid of {height} x {width} tokens is too small: each side must have at least 2 (32 pixels)")
    sigma = math.sqrt(height * width / 256)

    def centred(size: int) -> Tensor:
        index = torch.arange(size, dtype=torch.float32, device=device)
        return (index - (size - 1) / 2) * ((size / sigma - 1) / (size - 1))

    time = torch.arange(first_frame, first_frame + frames, dtype=torch.float32, device=device)
    return torch.cartesian_prod(time, centred(height), centred(width))


class MagiRotaryPosEmbed(nn.Module):
    """Angles from positions: the same learnable frequencies for time, height and width."""

    def __init__(self, attention_head_dim: int) -> None:
        super().__init__()
        count = attention_head_dim // 8
        self.bands = nn.Parameter(10000.0 ** (-torch.arange(count, dtype=torch.float32) / count))

    def forward(self, positions: Tensor, head_axis: bool = False) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each [tokens, 3 * d/8] fp32, of `positions` [tokens, 3]; [tokens, 1, 3 * d/8] with `head_axis`."""
        angles = (positions[:, :, None] * self.bands.float()).flatten(1)
        if head_axis:
            angles = angles[:, None]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the first 6/8 of the channels by halves; the last 2/8 stay.

    Args:
        x: [..., tokens, heads, d].
        cosine: [tokens, 3 * d/8], or [tokens, 1, 3 * d/8].
        sine: likewise.
    """
    n = cosine.shape[-1]
    if cosine.dim() == 2:
        cosine, sine = cosine[:, None], sine[:, None]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)
