"""Weights for a rehearsal: as many and as large as a checkpoint's, drawn from a seed, one tensor at a time."""

import hashlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def draw(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The fp32 tensor called `name`: it depends on the name, the shape and the seed, not on what was drawn before.

    Matrices keep the size of what goes through them (deviation 1 / sqrt(inputs)), gains of norms lie around one, biases
    and modulation tables around zero, so that activations stay in the range that those of trained weights have.
    """
    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(shape, generator=generator)
    if name.endswith("scale_shift_table"):
        return values / math.sqrt(shape[-1])
    if name.endswith("gamma"):  # of the VAE's norms: [channels, 1, 1, 1]
        return 1 + 0.1 * values
    if len(shape) > 1:
        return values.div_(math.sqrt(math.prod(shape[1:])))
    return 1 + 0.1 * values if "norm" in name and name.endswith("weight") else 0.02 * values


class RandomTensors(Mapping[str, Tensor]):
    """A checkpoint that was never trained: name -> fp32 tensor, drawn anew at every access and never kept."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int) -> None:
        self.shapes, self.seed = dict(shapes), seed

    def __getitem__(self, name: str) -> Tensor:
        return draw(name, self.shapes[name], self.seed)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
