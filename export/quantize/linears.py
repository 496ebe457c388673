"""Linear layers as an engine holds them: plain, FP8 or NVFP4. Their parameters are what goes into the ONNX file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.quantize.formats import BLOCK, fp8_quantize_weight, fp8_scale, nvfp4_quantize, nvfp4_scale
from export.quantize.operators import ONNX_DTYPES, fp8_activation, fp8_weight, nvfp4_activation, nvfp4_weight

Format = Literal["high", "fp8", "nvfp4"]


@dataclass(frozen=True)
class Dtypes:
    """What a graph computes in, and what its unquantized weights are stored in (both torch dtypes)."""

    compute: torch.dtype
    storage: torch.dtype


def _parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)


def _bias(features: int, dtypes: Dtypes, wanted: bool) -> nn.Parameter | None:
    return _parameter(features, dtype=dtypes.compute) if wanted else None


class HighLinear(nn.Module):
    """y = x W^T + b with W [out, in] in the storage dtype, all else in the compute dtype."""

    def __init__(self, in_features: int, out_features: int, dtypes: Dtypes, bias: bool = True) -> None:
        super().__init__()
        self.compute = dtypes.compute
        self.weight = _parameter(out_features, in_features, dtype=dtypes.storage)
        self.bias = _bias(out_features, dtypes, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.weight.to(self.compute), self.bias)


class Fp8Linear(nn.Module):
    """A linear layer with weight and input in E4M3, one fp32 scale each (ModelOpt's FP8 default)."""

    def __init__(self, in_features: int, out_features: int, dtypes: Dtypes, bias: bool = True) -> None:
        super().__init__()
        self.onnx_dtype = ONNX_DTYPES[dtypes.compute]
        self.weight = _parameter(out_features, in_features, dtype=torch.float8_e4m3fn)
        self.weight_scale = _parameter(dtype=torch.float32)
        self.input_scale = _parameter(dtype=torch.float32)
        self.bias = _bias(out_features, dtypes, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = fp8_weight(self.weight, self.weight_scale, self.onnx_dtype)
        return F.linear(fp8_activation(x, self.input_scale), weight, self.bias)


class Nvfp4Linear(nn.Module):
    """A linear layer with weight and input in NVFP4; the input's block scales are found as it runs."""

    def __init__(self, in_features: int, out_features: int, dtypes: Dtypes, bias: bool = True) -> None:
        super().__init__()
        if in_features % BLOCK:
            raise ValueError(f"NVFP4 needs a multiple of {BLOCK} input features, this layer has {in_features}")
        self.onnx_dtype = ONNX_DTYPES[dtypes.compute]
        self.weight = _parameter(out_features, in_features // 2, dtype=torch.uint8)
        self.weight_block_scale = _parameter(out_features, in_features // BLOCK, dtype=torch.float8_e4m3fn)
        self.weight_scale = _parameter(dtype=torch.float32)
        self.input_scale = _parameter(dtype=torch.float32)
        self.bias = _bias(out_features, dtypes, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight = nvfp4_weight(self.weight, self.weight_block_scale, self.weight_scale, self.onnx_dtype)
        return F.linear(nvfp4_activation(x, self.input_scale), weight, self.bias)


LINEARS: dict[Format, Callable[[int, int, Dtypes, bool], nn.Module]] = {
    "high": HighLinear,
    "fp8": Fp8Linear,
    "nvfp4": Nvfp4Linear,
}


def quantized(weight: Tensor, layer_format: Format, input_amax: float) -> dict[str, Tensor]:
    """What a quantized layer's parameters hold for a checkpoint's `weight` [out, in]: parameter name -> tensor.

    `input_amax` is the largest absolute input seen in calibration.
    """
    seen = torch.tensor(input_amax)
    if layer_format == "fp8":
        values, scale = fp8_quantize_weight(weight)
        return {"weight": values, "weight_scale": scale, "input_scale": fp8_scale(seen)}
    scale = nvfp4_scale(weight.abs().amax())
    packed, block_scale = nvfp4_quantize(weight, scale)
    return {
        "weight": packed,
        "weight_block_scale": block_scale,
        "weight_scale": scale,
        "input_scale": nvfp4_scale(seen),
    }
