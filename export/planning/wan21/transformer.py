"""The work of one forward of Wan 2.1's transformer, from the modules that an export writes, on the meta device.

Shapes: S = f * h/2 * w/2 tokens of a latent [f, h, w], d the width, batch 1 (guidance calls the transformer twice).
"""

from functools import cache
from math import prod

import torch

from export.families.wan21 import policy
from export.families.wan21.lowered import TEXT_LENGTH, Block, LoweredWanTransformer, WanConfig
from export.families.wan21.profiles import IMAGE_TOKENS
from export.graph.lowering import Build
from export.graph.weights import aligned
from export.planning.counting import parameter_bytes
from export.planning.gb10 import Arithmetic
from export.planning.operations import VALUE, linear
from export.planning.operations import attention as attend
from export.planning.work import Operation
from export.quantize.linears import Dtypes, Fp8Linear, HighLinear, Nvfp4Linear

_DTYPES = Dtypes(compute=torch.float16, storage=torch.float16)
TOKEN_BYTES = 23  # of an engine's activations, for each token and channel

# Passes over S x d values beside the matrix products of a block, if each of these is one fused kernel that reads its
# inputs and writes its result: norm and modulation 2, rotated and normalized q and k 4, gated residual 3; norm 2, q 2,
# residual 3; norm and modulation 2, gated residual 3. GELU is fused with the product before it.
_BLOCK_PASSES = 21


@cache
def lowered(config: WanConfig, precision: str) -> LoweredWanTransformer:
    """The transformer as an export for the Spark builds it, without weights."""
    with torch.device("meta"):
        return LoweredWanTransformer(config, Build(policy.formats(config, precision), _DTYPES))


def weights_bytes(config: WanConfig, precision: str) -> int:
    """Size of the file of weights that an export writes."""
    return sum(aligned(p.numel() * p.element_size()) for p in lowered(config, precision).parameters())


def tokens(config: WanConfig, latent: tuple[int, int, int]) -> int:
    """S for a latent [f, h, w]."""
    return prod(length // patch for length, patch in zip(latent, config.patch_size, strict=True))


def activation_bytes(config: WanConfig, latent: tuple[int, int, int]) -> int:
    """Estimate of an engine's activation memory: what lives in self-attention, `TOKEN_BYTES` per token and channel.

    That is about q and k in fp32 and again in fp16, v, the residual stream and the block's input in fp16. The middle of
    the FFN, which runs by halves, takes less. tensorrt_rtx 1.7.1 printed 0.83 to 1.14 times as much, for 4 layers of
    1.3B and 2 of 14B in all precisions (9 x 60 x 104 latents).
    """
    return tokens(config, latent) * TOKEN_BYTES * config.dim


def _rows(name: str, config: WanConfig, s: int) -> int:
    """How many rows go through the linear layer `name`."""
    if name.startswith(("condition_embedder.time_embedder", "condition_embedder.time_proj")):
        return 1
    if name.startswith("condition_embedder.image_embedder") or "add_k_proj" in name or "add_v_proj" in name:
        return IMAGE_TOKENS
    if name.startswith("condition_embedder.text_embedder") or name.endswith(("attn2.to_k", "attn2.to_v")):
        return TEXT_LENGTH
    return s


def _linear(name: str, module: HighLinear | Fp8Linear | Nvfp4Linear, rows: int) -> Operation:
    out_features, in_features = module.weight.shape
    arithmetic: Arithmetic = "fp8"
    if isinstance(module, Nvfp4Linear):
        arithmetic, in_features = "nvfp4", 2 * in_features  # two values share a byte
    elif isinstance(module, HighLinear):
        arithmetic = "fp16" if module.compute == torch.float16 else "fp32"
    return linear(name, arithmetic, rows, in_features, out_features, parameter_bytes(module))


def operations(
    config: WanConfig, precision: str, latent: tuple[int, int, int], attention: Arithmetic = "fp16"
) -> tuple[Operation, ...]:
    """All operations of one forward at a latent [f, h, w]; attention computes in `attention`."""
    s, d = tokens(config, latent), config.dim
    found = [Operation("elementwise", "fp32", 0, config.num_layers * _BLOCK_PASSES * VALUE * s * d)]
    patch = config.in_channels * prod(config.patch_size)
    found.append(Operation("patch_embedding", "fp16", 2 * s * patch * d, VALUE * (s * (patch + d) + patch * d)))
    for name, module in lowered(config, precision).named_modules():
        if isinstance(module, HighLinear | Fp8Linear | Nvfp4Linear):
            found.append(_linear(name, module, _rows(name, config, s)))
        elif isinstance(module, Block):
            found.append(attend(f"{name}.attn1", attention, s, s, d))
            found.append(attend(f"{name}.attn2", attention, s, TEXT_LENGTH, d))
            if module.attn2.image:
                found.append(attend(f"{name}.attn2 image", attention, s, IMAGE_TOKENS, d))
    return tuple(found)
