"""Where the weights of an export come from: a checkpoint's folder, or a seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint import reading
from export.checkpoint.lora import FusedTensors, LoraFile, Loras
from export.checkpoint.random_weights import RandomTensors
from export.checkpoint.stored import check_none_missing
from export.run.stages import digest
from videosdgx.artifacts import FusedLora

SEED = 0


@dataclass(frozen=True)
class Network:
    """How a network is stored: what must be known of it to read its weights.

    Attributes:
        config: (config.json) -> a dataclass of what shapes it; its `num_layers` counts the blocks, if it has any.
        shapes: (config.json) -> name and shape of every tensor as it is exported.
        published: (variant's name) -> the config.json of a published checkpoint, for random weights.
        block: name of a block, such as `blocks.{}`; "" for a network that has none.
        random: what draws random weights; `random_facts` tells one way of drawing from another.
        plain: (stored tensors) -> the tensors that they stand for, where they are stored in a format of their own.
        plain_config: entries of config.json that say so of the plain ones.
        wanted: (tensor's name) -> whether it is exported.
        original_name: (layer) -> its name in the official code, for LoRA files; None if there are no LoRAs for it.
    """

    config: Callable[[Mapping[str, Any]], Any]
    shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]]
    published: Callable[[str], dict[str, Any]]
    block: str = ""
    random: Callable[[Mapping[str, tuple[int, ...]], int], Mapping[str, Tensor]] = RandomTensors
    random_facts: Mapping[str, Any] = field(default_factory=dict)
    plain: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda tensors: tensors
    plain_config: Mapping[str, Any] = field(default_factory=dict)
    wanted: Callable[[str], bool] = lambda name: True
    original_name: Callable[[str], str] | None = None

    def block_index(self, name: str) -> int | None:
        """Which block a tensor or layer belongs to; None for those of no block."""
        prefix = self.block.partition("{}")[0]
        return int(name.removeprefix(prefix).split(".")[0]) if prefix and name.startswith(prefix) else None


@dataclass(frozen=True)
class Source:
    """The weights of one network, to be read one tensor at a time.

    `directory` is the component's in the checkpoint (None for random weights), `content` its config.json, `layers` how many
    of its blocks are exported (None: all), `origin` where it is from, in words, `loras` the adapters that are fused into it.
    """

    network: Network
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
    def config(self) -> Any:
        """The shape of what is exported."""
        whole = self.network.config(self.content)
        return whole if self.layers is None else replace(whole, num_layers=self.layers)

    @property
    def num_layers(self) -> int:
        """How many blocks are exported; 0 for a network that has none."""
        return int(self.config.num_layers) if self.network.block else 0

    @property
    def exported_content(self) -> dict[str, Any]:
        """The config.json of what is exported."""
        return self.content | ({"num_layers": self.num_layers} if self.network.block else {})

    @property
    def plain_content(self) -> dict[str, Any]:
        """The config.json of a network with the tensors that are given here."""
        return self.exported_content | dict(self.network.plain_config)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors that are exported, by name; each is read when it is asked for and not kept.

        Raises:
            CheckpointError: the files are not whole, or one of the tensors is in none of them.
        """
        if self.directory is None:
            return self.network.random(self.network.shapes(self.plain_content), SEED)
        plain = self.network.plain(reading.Tensors(self.directory, self._wanted))
        check_none_missing(str(self.directory), plain, self.network.shapes(self.plain_content))
        return FusedTensors(plain, self._adapters) if self._adapters else plain

    @cached_property
    def _adapters(self) -> Loras | None:
        if not self.loras:
            return None
        assert self.network.original_name is not None
        # Checked against the whole model, also where only some of its blocks are exported.
        return Loras(self.loras, self.network.shapes(self.content), self.network.original_name)

    @cached_property
    def adapters(self) -> list[FusedLora]:
        """What a manifest says of the adapters."""
        return self._adapters.facts() if self._adapters else []

    def _wanted(self, name: str) -> bool:
        """Whether a stored tensor belongs to what is exported."""
        index = self.network.block_index(name)
        return self.network.wanted(name) and (index is None or index < self.num_layers)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the weights are: the files', or that of shapes and seed."""
        if self.directory is None:
            return digest({"config": self.content, "seed": SEED, "torch": torch.__version__, **self.network.random_facts})
        files = reading.digest(self.directory)
        return digest({"files": files, "loras": [one.model_dump() for one in self.adapters]}) if self.loras else files
