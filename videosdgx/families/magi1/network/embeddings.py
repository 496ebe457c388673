"""What a chunk is conditioned on: its time, whether it has text, the text itself (spec: magi1, sections 3.3 and 3.4)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 256


def timestep_embedding(timestep: Tensor) -> Tensor:
    """Cosines, then sines, of `timestep` [...] (0 is noise, 1 is clean): [..., 256] fp32.

    The order of the multiplications matters: for step sizes (far above 1) another one changes the angles by 2e-3.
    """
    half = FREQUENCIES // 2
    index = torch.arange(half, dtype=torch.float32, device=timestep.device)
    frequencies = torch.exp(-math.log(10000.0) * index / half)
    angles = timestep.float()[..., None] * frequencies * 1000.0
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MagiTimestepEmbedder(nn.Module):
    """The time, and for distilled models the step size, as a condition."""

    def __init__(self, condition_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, condition_size), nn.SiLU(), nn.Linear(condition_size, condition_size))

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., c] fp32 from times [...]. The sinusoid is rounded to `dtype` (that of the blocks), the MLP is fp32."""
        sinusoid = timestep_embedding(timestep).to(dtype)
        embedding: Tensor = self.mlp(sinusoid.float())
        return embedding


class MagiCaptionEmbedder(nn.Module):
    """Text features to text tokens, and the flag "has text" or "no text". The prompt reaches the network as tokens only."""

    def __init__(self, caption_channels: int, caption_max_length: int, text_size: int, condition_size: int) -> None:
        super().__init__()
        self.null_caption_embedding = nn.Parameter(torch.randn(caption_max_length, caption_channels) * caption_channels**-0.5)
        self.y_proj_xattn = nn.Sequential(nn.Linear(caption_channels, text_size), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(nn.Linear(caption_channels, condition_size))

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:
        """Text tokens [..., n, text_size] fp32 from features [..., n, caption_channels]."""
        tokens: Tensor = self.y_proj_xattn(encoder_hidden_states.to(self.null_caption_embedding.dtype))
        return tokens

    def flag(self, has_text: Tensor) -> Tensor:
        """[N, c] fp32 from bool [N]: the last row but one of the null caption stands for text, the last one for none."""
        rows: Tensor = self.y_proj_adaln(self.null_caption_embedding[-2:])
        return torch.where(has_text[:, None], rows[0], rows[1])


def silu_gated(x: Tensor) -> Tensor:
    """`silu(a) * b` of [..., 2f] = [a, b], computed in fp32 and rounded once."""
    gate, value = x.float().chunk(2, dim=-1)
    return (F.silu(gate) * value).to(x.dtype)
