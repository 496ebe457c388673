"""Softmax attention with both products in FP8, in the only form that the compiler fuses into an FP8 kernel.

`tensorrt_rtx` 1.7.1 for sm121, 12 heads of 128, 4096 tokens; activation memory as it prints it:

    fp16 ....................................................... 50 MB, fused
    query, key, value and probabilities rounded (this file) .... 31 MB, fused, inputs in FP8
    query, key and value rounded, probabilities in fp16 ....... 824 MB, not fused
    ONNX's Attention operator behind rounded inputs ............ 50 MB, fused, but the fp16 kernel

With dynamic shapes the smallest one needs `FEWEST_KEYS`: with 24 keys nothing is fused, and nothing says so. (The
operator TRT_QuantizedAttention compiles to the same kernel and fails instead, but ONNX Runtime does not know it.)
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from export.quantize.formats import fp8_scale
from export.quantize.operators import fp8_activation, fp8_probabilities

FEWEST_KEYS = 32


def fp8_attention(
    query: Tensor, key: Tensor, value: Tensor, scales: tuple[Tensor, Tensor, Tensor], compute: torch.dtype
) -> Tensor:
    """Attention [B, heads, n, D] of query [B, heads, n, D], already divided by sqrt(D), and key and value [B, heads, m, D].

    `scales` are fp32 scalars for query, key and value; the probabilities are at most 1 and need none. The products are in
    `compute`; the rounding is in fp32, because ONNX Runtime moves transposes through it and takes the result's dtype for
    that of the scale.
    """
    parts = zip((query, key, value), scales, strict=True)
    q, k, v = (fp8_activation(part.float(), scale).to(compute) for part, scale in parts)
    probabilities = fp8_probabilities(F.softmax(q @ k.transpose(-1, -2), -1).float())
    return probabilities.to(compute) @ v


def attention_scales(attentions: Iterable[str], head_dim: int, maxima: Mapping[str, float]) -> dict[str, Tensor]:
    """`<name>.q_scale`, `.k_scale` and `.v_scale` of the `attentions`, from their calibrated maxima `<name>.q`, `.k`, `.v`."""
    factors = {"q": head_dim**-0.5, "k": 1.0, "v": 1.0}
    return {
        f"{name}.{part}_scale": fp8_scale(torch.tensor(maxima[f"{name}.{part}"] * factor))
        for name in attentions
        for part, factor in factors.items()
    }
