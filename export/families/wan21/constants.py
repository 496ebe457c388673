"""The tensors of Wan 2.1's transformer that no checkpoint holds."""

import math

import torch
from torch import Tensor

from export.families.wan21.lowered import WanConfig


def constants(config: WanConfig) -> dict[str, Tensor]:
    """Sinusoid frequencies and rotary tables, computed in fp64, stored in fp32."""
    half = config.freq_dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    rows = 2 * (config.attention_head_dim // 6)
    positions = torch.arange(config.rope_max_seq_len, dtype=torch.float64)
    angles = []
    for width in (config.attention_head_dim - 2 * rows, rows, rows):
        exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
        angles.append(torch.outer(positions, 1 / 10000**exponents))
    table = torch.cat(angles, 1)
    return {
        "condition_embedder.frequencies": frequencies,
        "rope.cos": table.cos().float(),
        "rope.sin": table.sin().float(),
    }
