"""The two graphs of Wan 2.1's video decoder: for the first latent frame, and for each that follows."""

from collections.abc import Mapping

import torch
from onnx import ValueInfoProto
from torch import Tensor
from torch.export import Dim

from export.families.wan21.vae_lowered import HISTORY, LoweredVaeDecoder, Step, VaeConfig
from export.graph.tracing import Skeleton, trace
from videosdgx.families.wan21.vae_loop import FRAMES, LATENT, SPATIAL, cache_input, cache_output

_MOST_BATCH, _MOST_SIDE = 64, 1024  # of a latent; only bounds what tracing assumes


def cache_shapes(config: VaeConfig) -> list[tuple[int, int]]:
    """(channels, scale) of each cached tensor [B, channels, 2, scale h, scale w], in the order of the convolutions."""
    with torch.device("meta"):
        module = LoweredVaeDecoder(config, Step(first=True, dtype=torch.float32))
        _, *cache = module(torch.empty(1, config.z_dim, 1, 1, 1))
    return [(tensor.shape[1], tensor.shape[-1]) for tensor in cache]


def skeleton(config: VaeConfig, step: Step) -> Skeleton:
    """One step's graph without weights, for any batch, height and width; inputs and outputs as `DecoderLoop` wants them."""
    shapes = cache_shapes(config)
    batch, height, width = Dim("batch", max=_MOST_BATCH), Dim("height", max=_MOST_SIDE), Dim("width", max=_MOST_SIDE)
    h, w = 6, 10
    with torch.device("meta"):
        module = LoweredVaeDecoder(config, step)
        inputs: dict[str, Tensor | list[Tensor]] = {LATENT: torch.empty(2, config.z_dim, 1, h, w)}
        dynamic: dict[str, object] = {LATENT: {0: batch, 3: height, 4: width}}
        if not step.first:
            inputs["cache"] = [torch.empty(2, c, HISTORY, s * h, s * w, dtype=step.dtype) for c, s in shapes]
            dynamic["cache"] = [{0: batch, 3: s * height, 4: s * width} for _, s in shapes]
    outputs = [cache_output(index) for index in range(len(shapes))]
    scales = {LATENT: 1, FRAMES: SPATIAL}
    scales |= {name(index): scale for name in (cache_input, cache_output) for index, (_, scale) in enumerate(shapes)}
    piece = trace(module, inputs, dynamic, FRAMES, *outputs)
    for value in (*piece.inputs, *piece.outputs):
        _name_axes(value, scales)
    return Skeleton(piece.nodes, piece.weights, piece.constants, piece.inputs, piece.outputs)


def _name_axes(value: ValueInfoProto, scales: Mapping[str, int]) -> None:
    """Give the dynamic axes of one input or output names that a person understands, such as `height*8`."""
    scale = scales[value.name]
    axes = value.type.tensor_type.shape.dim
    axes[0].dim_param = "batch"
    for axis, name in zip(axes[3:], ("height", "width"), strict=True):
        axis.dim_param = name if scale == 1 else f"{name}*{scale}"
