"""Where the weights of an export come from: a checkpoint's folder, or a seed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import reading
from export.checkpoint.random_weights import RandomTensors
from export.families.magi1.config import MagiConfig
from export.run.stages import digest
from videosdgx.artifacts import FusedLora
from videosdgx.families.magi1.network.fp8 import E4M3_MAX
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

SEED = 0
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
    """A checkpoint whose layers in the official fp8 format (spec: magi1, section 2.2) are read as the weights they stand for.

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
        return weight * (scale / divisor)

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


@dataclass(frozen=True)
class Source:
    """The weights of one transformer, to be read one tensor at a time.

    `directory` is the checkpoint's (None for random weights), `content` its config.json, `layers` how many of its blocks
    are exported (None: all), `origin` where it is from, in words.
    """

    origin: str
    directory: Path | None
    content: dict[str, Any]
    layers: int | None = None

    @property
    def random(self) -> bool:
        """Whether the weights are drawn from a seed."""
        return self.directory is None

    @cached_property
    def config(self) -> MagiConfig:
        """The shape of what is exported."""
        whole = MagiConfig.from_dict(self.content)
        return whole if self.layers is None else replace(whole, num_layers=self.layers)

    @property
    def plain_content(self) -> dict[str, Any]:
        """config.json of a model with the tensors given here."""
        return self.content | {"num_layers": self.config.num_layers, "fp8_layers": []}

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that are exported, by name; each is read when it is asked for and not kept."""
        if self.directory is None:
            return _Random(shapes(self.plain_content), SEED)
        return PlainTensors(reading.Tensors(self.directory, self._wanted))

    @cached_property
    def static_maxima(self) -> dict[str, float]:
        """The largest inputs that an official fp8 checkpoint says itself (see `PlainTensors.static_maxima`)."""
        return self.tensors.static_maxima() if isinstance(self.tensors, PlainTensors) else {}

    @property
    def adapters(self) -> list[FusedLora]:
        """There are no LoRAs for MAGI-1."""
        return []

    def _wanted(self, name: str) -> bool:
        """Whether a tensor belongs to the blocks that are exported."""
        prefix = "videodit_blocks.layers."
        return not name.startswith(prefix) or int(name.removeprefix(prefix).split(".")[0]) < self.config.num_layers

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the weights are: the files', or that of shapes and seed."""
        if self.directory is None:
            return digest({"config": self.content, "seed": SEED, "torch": torch.__version__, "norms": PLUS_ONE_NORMS})
        return reading.digest(self.directory)
