"""The official static fp8 format (docs/specs/magi1.md, section 2.2): linear layers with E4M3 weights and calibrated scales."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

E4M3_MAX = 448.0


def quantize_activation(x: Tensor, divisor: Tensor) -> Tensor:
    """E4M3 codes of `x / divisor`, rounded twice as the official kernels do: to bfloat16, then to E4M3.

    One rounding instead would change about 3 codes in a hundred.
    """
    scaled = (x.float() / divisor).clamp(-E4M3_MAX, E4M3_MAX)
    return scaled.to(torch.bfloat16).to(torch.float8_e4m3fn)


class Fp8Linear(nn.Module):
    """A linear layer without bias whose weight and input are E4M3.

    Two kinds: per tensor (one activation scale, stored as a constant vector `input_scale` [in]), and smoothed (divisors per
    input channel `smooth_scale` [1, in], which contain the activation scale `input_scale` [1]).

    The weight [1, out, in] is kept as its bytes (uint8), so that nothing that casts a model's floating-point tensors, such
    as `from_pretrained(torch_dtype=...)` and `to`, widens it.
    """

    def __init__(self, in_features: int, out_features: int, smoothed: bool) -> None:
        super().__init__()

        def constant(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
            return nn.Parameter(torch.ones(shape, dtype=dtype), requires_grad=False)

        self.in_features, self.out_features = in_features, out_features
        self.weight = constant(1, out_features, in_features, dtype=torch.uint8)
        self.weight_scale = constant(1)
        self.input_scale = constant(1 if smoothed else in_features)
        self.smooth_scale = constant(1, in_features) if smoothed else None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        stored = state_dict.get(f"{prefix}weight")
        if stored is not None and stored.dtype == torch.float8_e4m3fn:
            state_dict[f"{prefix}weight"] = stored.view(torch.uint8)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        """[..., out] of `x` [..., in], in the dtype of `x` (bfloat16 in the official model)."""
        divisor = self.input_scale if self.smooth_scale is None else self.smooth_scale[0]
        codes = quantize_activation(x, divisor)
        product = F.linear(codes.float(), self.weight.view(torch.float8_e4m3fn)[0].float())
        return (product * self.input_scale[0] * self.weight_scale).to(x.dtype)
