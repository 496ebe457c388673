"""What the lowered modules of all families are made of."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graph.tracing import Piece
from export.quantize.linears import LINEARS, Dtypes, Format


@dataclass(frozen=True)
class Build:
    """What the layers of a lowered module are made of: each linear layer's format by its name, and the dtypes.

    It is the factory (`videosdgx.families.layers.Layers`) of networks that are written once for PyTorch and export. Their
    norms are made in fp32 and stay so. `fp8_attention` names the attentions (`blocks.0.attn1`) whose two products are in FP8.
    """

    formats: dict[str, Format]
    dtypes: Dtypes
    fp8_attention: frozenset[str] = frozenset()

    halves = True  # the hidden layer of an MLP is the largest tensor of a network

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return self.dtypes.compute

    def constant(self, *shape: int) -> nn.Parameter:
        """A parameter: on the meta device, where networks are traced, nothing can be computed."""
        return fp32_parameter(*shape)

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """The linear layer called `name` in the checkpoint; layers without a format stay in high precision."""
        return LINEARS[self.formats.get(name, "high")](in_features, out_features, self.dtypes, bias)

    def kind(self, prefix: str) -> tuple[tuple[str, Format], ...]:
        """What tells one block's graph from another's: the formats of its layers and attentions, named without `prefix`."""
        formats: dict[str, Format] = self.formats | dict.fromkeys(self.fp8_attention, "fp8")
        return tuple(sorted((name.removeprefix(prefix), f) for name, f in formats.items() if name.startswith(prefix)))

    def pieces(self, prefix: str, count: int, trace_block: Callable[[int], Piece]) -> list[Piece]:
        """The graph of each of `count` blocks; block i is called `prefix.format(i)`. As many are traced as there are kinds."""
        kinds: dict[tuple[tuple[str, Format], ...], Piece] = {}
        blocks = []
        for index in range(count):
            kind = self.kind(prefix.format(index))
            if kind not in kinds:
                kinds[kind] = trace_block(index)
            blocks.append(kinds[kind])
        return blocks


def fp32_parameter(*shape: int) -> nn.Parameter:
    """A parameter that is fp32 whatever the graph computes in."""
    return nn.Parameter(torch.empty(shape, dtype=torch.float32), requires_grad=False)


class Fp32LayerNorm(nn.Module):
    """LayerNorm over the last axis in fp32, with weight and bias only if `affine`."""

    def __init__(self, dim: int, eps: float, affine: bool) -> None:
        super().__init__()
        self.shape, self.eps = (dim,), eps
        self.weight = fp32_parameter(dim) if affine else None
        self.bias = fp32_parameter(dim) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] in any dtype -> fp32 of the same shape."""
        return F.layer_norm(x.float(), self.shape, self.weight, self.bias, self.eps)
