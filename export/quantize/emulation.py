"""NVFP4 and FP8 attention in plain PyTorch: what an engine's arithmetic is checked against.

Written from the formats' definitions and apart from `export.quantize.formats`: E2M1 by looking values up in a table.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])  # of the codes 0 to 7
_BORDERS = (_VALUES[:-1] + _VALUES[1:]) / 2
_EVEN_ABOVE = torch.tensor([False, True] * 3 + [False])  # at border i the codes i and i + 1 tie: is i + 1 even?


def nearest_e2m1(x: Tensor) -> Tensor:
    """The E2M1 value nearest to each element of fp32 `x`; ties go to the even code, beyond 6 is 6."""
    size = x.abs()
    code = torch.bucketize(size, _BORDERS)  # a tie gets the lower code
    tied = torch.isin(size, _BORDERS[_EVEN_ABOVE])
    return torch.where(x < 0, -1.0, 1.0) * _VALUES[code + tied]


def nvfp4(x: Tensor, amax: Tensor, top: float = 6.0) -> Tensor:
    """fp32 `x` [..., n] as NVFP4 shows it, given the tensor's largest absolute value `amax`.

    A block's scale is chosen so that its largest value becomes `top`.
    """
    global_scale = amax / (448 * 6)
    blocks = x.reshape(-1, 16)
    wanted = blocks.abs().max(dim=1, keepdim=True).values / top
    block_scale = torch.clamp(wanted / global_scale, max=448).to(torch.float8_e4m3fn).float()
    scale = block_scale * global_scale
    shown = nearest_e2m1(blocks / torch.where(scale == 0, 1.0, scale)) * scale
    return shown.reshape(x.shape)


def nvfp4_weight(weight: Tensor) -> Tensor:
    """fp32 `weight` [out, in] as NVFP4 shows it: each block by the better of the scales for 6 and for 4."""
    both = torch.stack([nvfp4(weight, weight.abs().max(), top) for top in (6.0, 4.0)])
    errors = (both - weight).square().reshape(2, -1, 16).sum(dim=2)
    use_four = (errors[1] < errors[0]).repeat_interleave(16).reshape(weight.shape)
    return torch.where(use_four, both[1], both[0])


def simulate_nvfp4(model: nn.Module, input_amax: Mapping[str, float]) -> None:
    """Change `model` so that its linear layers named in `input_amax` compute with NVFP4 weights and inputs, in fp32."""
    for name, amax in input_amax.items():
        layer: Any = model.get_submodule(name)
        weight = layer.weight.detach().float()
        shown = nvfp4_weight(weight)
        seen = torch.tensor(amax)

        def forward(x: Tensor, weight: Tensor = shown, bias: Tensor = layer.bias, seen: Tensor = seen) -> Tensor:
            return F.linear(nvfp4(x.float(), seen), weight, bias)

        layer.forward = forward


class _RoundedProducts(TorchFunctionMode):
    """While active, attention rounds what goes into its two products to E4M3, given the largest |q|, |k| and |v|."""

    def __init__(self, amax: tuple[float, float, float]) -> None:
        super().__init__()
        self.amax = amax

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | given
        q, k, v = (e4m3(named[name], amax) for name, amax in zip(("query", "key", "value"), self.amax, strict=True))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
        return torch.einsum("bhqk,bhkd->bhqd", e4m3(scores.softmax(-1), 1.0), v)


def e4m3(x: Tensor, amax: float) -> Tensor:
    """fp32 `x` as E4M3 shows it with one scale for which `amax` is the largest value."""
    scale = amax / 448
    return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


def simulate_fp8_attention(model: nn.Module, maxima: Mapping[str, float]) -> None:
    """Change `model` so that the attention modules named in `maxima` (`<name>.q`, `.k`, `.v`) round as FP8 attention does."""
    for name in sorted({key.rpartition(".")[0] for key in maxima}):
        layer: Any = model.get_submodule(name)
        amax = (maxima[f"{name}.q"], maxima[f"{name}.k"], maxima[f"{name}.v"])
        # ModelOpt's subclass puts an operation of its own in the way, which lets nothing look inside.
        plain = partial(getattr(layer, "original_cls", type(layer)).forward, layer)

        def forward(*args: Any, own: Any = plain, amax: tuple[float, float, float] = amax, **kwargs: Any) -> Any:
            with _RoundedProducts(amax):
                return own(*args, **kwargs)

        layer.forward = forward
