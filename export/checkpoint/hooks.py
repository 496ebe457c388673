"""Running a model that does not fit in memory: `accelerate` puts a layer's weights in place just before the layer runs."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_align_device_hook
from torch import Tensor, nn

_Model = TypeVar("_Model", bound=nn.Module)


class StreamedWeights(Mapping[str, Tensor]):
    """Tensors by name, as `accelerate` and ModelOpt's support of it want them; `aliases` are second names of some."""

    def __init__(self, tensors: Mapping[str, Tensor], aliases: Mapping[str, str] | None = None) -> None:
        self._tensors, self._aliases = tensors, aliases or {}
        self.state_dict: dict[str, Tensor] = {}  # where ModelOpt would put weights that it changed; it changes none here

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from self._aliases

    def __len__(self) -> int:
        return len(self._tensors) + len(self._aliases)


def streamed(model: _Model, weights: StreamedWeights) -> _Model:
    """Have `model` (on the meta device) take each layer's weights from `weights` when the layer runs."""
    attach_align_device_hook(model, execution_device="cpu", offload=True, weights_map=weights)
    if not hasattr(model, "_hf_hook"):
        # By the outermost hook a pipeline sees that the model computes on the CPU, though its weights are elsewhere.
        add_hook_to_module(model, AlignDevicesHook(execution_device=torch.device("cpu")))
    return model
