"""How MAGI-1's transformer is stored: the official fp8 format read as plain weights, and random weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from export.checkpoint.finite import first_not_finite
from export.checkpoint.random_weights import RandomTensors
from export.checkpoint.source import Network, Source
from export.checkpoint.stored import CheckpointError
from export.families.magi1.config import MagiConfig, block_name
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.fp8 import E4M3_MAX
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

# Layers that store their gain minus one.
PLUS_ONE_NORMS = (
    "q_layernorm",
    "k_layernorm",
    "q_layernorm_xattn",
    "k_layernorm_xattn",
    "self_attn_post_norm",
    "mlp_post_norm",
    "final_layernorm",
)
_SCALES = ("input_scale", "weight_scale", "smooth_scale")


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the transformer with this config.json; those of fp8 layers as if they were plain."""
    with torch.device("meta"):
        model = MagiTransformer3DModel.from_config(dict(config) | {"fp8_layers": ()})
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class _Random(RandomTensors):
    """Random weights whose norms that store their gain minus one have gains around one like the others."""

    def __getitem__(self, name: str) -> Tensor:
        layer, _, parameter = name.rpartition(".")
        less = parameter == "weight" and layer.endswith(PLUS_ONE_NORMS)
        return super().__getitem__(name) - 1 if less else super().__getitem__(name)


class PlainTensors(Mapping[str, Tensor]):
    """A checkpoint whose layers in the official fp8 format (docs/specs/magi1.md, section 2.2) are read as plain weights.

    The product of codes and scales is a plain linear layer's weight: what this leaves out is the official rounding of inputs.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[name]
        layer = name.removesuffix(".weight")
        if f"{layer}.weight_scale" not in self._tensors:
            return stored
        weight = stored.view(torch.float8_e4m3fn)[0].float()
        scale = self._tensors[f"{layer}.weight_scale"] * self._tensors[f"{layer}.input_scale"][0]
        smooth = f"{layer}.smooth_scale"
        divisor = self._tensors[smooth] if smooth in self._tensors else self._tensors[f"{layer}.input_scale"][None]
        plain = weight * (scale / divisor)
        if (found := first_not_finite(plain)) is not None:
            raise CheckpointError(f"{name}, codes of E4M3 times their scales, has {found}: download the checkpoint again")
        return plain

    def static_maxima(self) -> dict[str, float]:
        """The largest input that each of its fp8 layers was calibrated for, by layer; of those without smoothing.

        With it the scale of inputs is in the divisors of the input's channels, which the weights read here contain.
        """
        ending = ".input_scale"
        layers = [name.removesuffix(ending) for name in self._tensors if name.endswith(ending)]
        plain = (layer for layer in layers if f"{layer}.smooth_scale" not in self._tensors)
        return {layer: E4M3_MAX * float(self._tensors[f"{layer}{ending}"][0]) for layer in plain}

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._tensors if not name.endswith(_SCALES))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def known_maxima(source: Source) -> Mapping[str, float]:
    """What an official fp8 checkpoint was calibrated for; nothing for the others."""
    return source.tensors.static_maxima() if isinstance(source.tensors, PlainTensors) else {}


NETWORK = Network(
    config=MagiConfig.from_dict,
    shapes=shapes,
    published=TRANSFORMERS.__getitem__,
    block=block_name("{}"),
    random=_Random,
    random_facts={"norms": PLUS_ONE_NORMS},
    plain=PlainTensors,
    plain_config={"fp8_layers": []},
)
