"""16-bit products on a CPU, so that every processor gives the same bits."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

_Method = TypeVar("_Method", bound=Callable[..., Any])


def same_everywhere(method: _Method) -> _Method:
    """Have a method of the transformer use PyTorch's own 16-bit products where it runs on a CPU in 16 bits.

    oneDNN's sum in an order of its own on each kind of processor. One bfloat16 that is rounded the other way for that reason
    changes codes of an fp8 layer, which are 16 times as coarse: that layer's output is then 8e-3 from the original.
    PyTorch's own order is that of the reference tensors. Engines, and the network in fp32, are not touched.
    """

    @functools.wraps(method)
    def run(self: "MagiTransformer3DModel", *args: Any, **kwargs: Any) -> Any:
        official = self.device.type == "cpu" and self.builds_official_layers and self.compute_dtype != torch.float32
        if not official or not torch.backends.mkldnn.enabled:
            return method(self, *args, **kwargs)
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            return method(self, *args, **kwargs)
        finally:
            torch.backends.mkldnn.enabled = True  # type: ignore[assignment]

    return run  # type: ignore[return-value]
