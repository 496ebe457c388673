"""What a chunk is conditioned on: its time, whether it has text, the text (docs/specs/magi1.md, sections 3.3 and 3.4)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosdgx.families.layers import Layers

FREQUENCIES = 128


def timestep_frequencies(device: torch.device | None = None) -> Tensor:
    """The sinusoid's frequencies, [128] fp32."""
    index = torch.arange(FREQUENCIES, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000.0) * index / FREQUENCIES)


def timestep_embedding(timestep: Tensor, frequencies: Tensor | None = None) -> Tensor:
    """Cosines, then sines, of `timestep` [...] (0 is noise, 1 is clean): [..., 256] fp32.

    The order of the multiplications matters: for step sizes (far above 1) another one changes the angles by 2e-3.
    `frequencies` are those of `timestep_frequencies`; none: they are computed.
    """
    if frequencies is None:
        frequencies = timestep_frequencies(timestep.device)
    angles = timestep.float()[..., None] * frequencies * 1000.0
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MagiTimestepEmbedder(nn.Module):
    """The time, and for distilled models the step size, as a condition."""

    def __init__(self, condition_size: int, build: Layers) -> None:
        super().__init__()
        self.frequencies = build.constant(FREQUENCIES)
        layers = [nn.Linear(2 * FREQUENCIES, condition_size), nn.SiLU(), nn.Linear(condition_size, condition_size)]
        self.mlp = nn.Sequential(*layers)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """[..., c] fp32 from times [...]. The sinusoid is rounded to `dtype` (that of the blocks), the MLP is fp32."""
        sinusoid = timestep_embedding(timestep, self.frequencies).to(dtype)
        embedding: Tensor = self.mlp(sinusoid.float())
        return embedding


class MagiCaptionEmbedder(nn.Module):
    """Text features to text tokens, and the flag "has text" or "no text". The prompt reaches the network as tokens only."""

    def __init__(
        self, caption_channels: int, caption_max_length: int, text_size: int, condition_size: int, build: Layers
    ) -> None:
        super().__init__()
        self.flags = build.constant(2, condition_size)
        self.null_caption_embedding = nn.Parameter(torch.randn(caption_max_length, caption_channels) * caption_channels**-0.5)
        self.y_proj_xattn = nn.Sequential(nn.Linear(caption_channels, text_size), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(nn.Linear(caption_channels, condition_size))

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:
        """Text tokens [..., n, text_size] fp32 from features [..., n, caption_channels]."""
        tokens: Tensor = self.y_proj_xattn(encoder_hidden_states.to(self.null_caption_embedding.dtype))
        return tokens

    def flag(self, has_text: Tensor) -> Tensor:
        """[..., c] fp32 from bool [...]: the last row but one of the null caption stands for text, the last one for none."""
        rows: Tensor = self.y_proj_adaln(self.null_caption_embedding[-2:]) if self.flags is None else self.flags
        return torch.where(has_text[..., None], rows[0], rows[1])


def silu_gated(x: Tensor) -> Tensor:
    """`silu(a) * b` of [..., 2f] = [a, b], computed in fp32 and rounded once."""
    gate, value = x.float().chunk(2, dim=-1)
    return (F.silu(gate) * value).to(x.dtype)
