"""Where the weights of an export come from: a checkpoint's folder, or a seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from export.checkpoint import reading
from export.checkpoint.lora import FusedTensors, LoraFile, Loras
from export.checkpoint.random_weights import RandomTensors
from export.families.wan21.lora import original_name
from export.families.wan21.lowered import WanConfig
from export.run.stages import digest
from videosdgx.artifacts import FusedLora

SEED = 0


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of diffusers' transformer with this config.json."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(dict(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Source:
    """The weights of one transformer, to be read one tensor at a time.

    `directory` is the checkpoint's (None for random weights), `content` its config.json, `layers` how many of its blocks
    are exported (None: all), `origin` where it is from, in words, `loras` the adapters that are fused into it.
    """

    origin: str
    directory: Path | None
    content: dict[str, Any]
    layers: int | None = None
    loras: tuple[LoraFile, ...] = ()

    @property
    def random(self) -> bool:
        """Whether the weights are drawn from a seed."""
        return self.directory is None

    @cached_property
    def config(self) -> WanConfig:
        """The shape of what is exported."""
        whole = WanConfig.from_dict(self.content)
        return whole if self.layers is None else replace(whole, num_layers=self.layers)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that are exported, by name; each is read when it is asked for and not kept."""
        if self.directory is None:
            return RandomTensors(shapes(self.content | {"num_layers": self.config.num_layers}), SEED)
        plain = reading.Tensors(self.directory, self._wanted)
        return FusedTensors(plain, self._adapters) if self._adapters else plain

    @cached_property
    def _adapters(self) -> Loras | None:
        # Checked against the whole model, also where only some of its blocks are exported.
        return Loras(self.loras, shapes(self.content), original_name) if self.loras else None

    @cached_property
    def adapters(self) -> list[FusedLora]:
        """What a manifest says of the adapters."""
        return self._adapters.facts() if self._adapters else []

    def _wanted(self, name: str) -> bool:
        """Whether a tensor belongs to the blocks that are exported."""
        return not name.startswith("blocks.") or int(name.split(".")[1]) < self.config.num_layers

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the weights are: the files', or that of shapes and seed."""
        if self.directory is None:
            return digest({"config": self.content, "seed": SEED, "torch": torch.__version__})
        files = reading.digest(self.directory)
        return digest({"files": files, "loras": [one.model_dump() for one in self.adapters]}) if self.loras else files
