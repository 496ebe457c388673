"""What differs between the uses of a network of ours, so that it is written once for PyTorch, training and export.

Such a network (`videosdgx.families.magi1.network` is one) asks a factory, `Layers`, for these few things. In PyTorch that is
`EagerLayers` or a family's own kind of it; an export gives one whose linear layers are quantized. All other parts are plain
modules, which compute in the dtype of their parameters.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layers(Protocol):
    """Makes the parts of a network that differ between its uses."""

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """The dtype of the residual stream; None: that of the blocks' parameters, which may be cast after they are made."""

    @property
    def halves(self) -> bool:
        """Whether an MLP takes one half of the tokens after the other, so that half of its hidden layer exists at a time."""

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """The linear layer that the checkpoint calls `name`: [..., in] -> [..., out]."""

    def constant(self, *shape: int) -> nn.Parameter | None:
        """Where numbers (fp32) are kept that depend on nothing but the weights; None: they are computed on every run."""


class EagerLayers:
    """Layers to run and to train in PyTorch."""

    compute_dtype: torch.dtype | None = None
    halves = False

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """PyTorch's own, whatever its name."""
        return nn.Linear(in_features, out_features, bias)

    def constant(self, *shape: int) -> nn.Parameter | None:
        """None: what is computed on every run needs no place in a checkpoint, and follows the device."""
        return None


class LayerNorm(nn.LayerNorm):
    """Layer norm that computes in the dtype of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., size] in any dtype, normalised over the last dimension, in the dtype of the weight."""
        return F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps)
