"""The optimiser of the demo trainings: Muon for matrices, AdamW for everything else, one learning-rate curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. 2024, "Muon"


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly the nearest (semi-)orthogonal matrices: all singular values of each [rows, columns] go to about 1.

    `matrices` is [B, rows, columns]: many small ones together take far less time than one by one.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if tall else wide


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, for weights of two or more dimensions.

    A convolution counts as the matrix [out channels, everything else], which `torch.optim.Muon` does not take. The step
    is scaled by 0.2 sqrt(max(rows, columns)), so that it is as large as AdamW's and both can share a learning rate
    (Liu et al. 2025, "Muon is Scalable for LLM Training").
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients; `closure` is not used."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state: dict[str, Tensor] = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(momentum, group["momentum"]).flatten(1)
                same_shape.setdefault(direction.shape, []).append((weight, direction))
            for shape, pairs in same_shape.items():
                scale = 0.2 * math.sqrt(max(shape))
                directions = orthogonalise(torch.stack([direction for _, direction in pairs]))
                for (weight, _), direction in zip(pairs, directions, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(direction.reshape(weight.shape), alpha=-group["lr"] * scale)


def optimisers(model: nn.Module, weight_decay: float = 0.0) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of `model`, AdamW for its vectors and modulation tables; the rate comes from `set_rate`."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [weight for weight in trained if _is_matrix(weight)]
    others = [weight for weight in trained if not _is_matrix(weight)]
    return [
        Muon(matrices, lr=0.0, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _is_matrix(weight: Tensor) -> bool:
    # A leading 1 is a table broadcast over the batch, and trailing ones are the gains of a norm: neither is a matrix.
    return weight.ndim >= 2 and weight.shape[0] > 1 and weight[0].numel() > 1


def set_rate(opts: list[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every group."""
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = rate


def rate_at(progress: float, peak: float, warm_up: float = 0.02, decay: float = 0.6) -> float:
    """Learning rate at `progress` in 0..1: up over `warm_up`, flat, then straight down to zero over `decay`."""
    return peak * min(1.0, progress / warm_up, (1.0 - progress) / decay)
