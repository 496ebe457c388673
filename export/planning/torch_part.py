"""A part of a clip that runs in PyTorch: its size, and what its calls do."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from export.planning.counting import Count, count, parameter_bytes
from export.planning.engines import engine_memory
from export.planning.gb10 import Arithmetic
from export.planning.work import Bytes, Operation, Part, Request

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_COMPUTES: dict[str, Arithmetic] = {"fp32": "fp32", "bf16": "fp16", "fp16": "fp16"}  # the two of 16 bits are as fast


def torch_part(
    home: Path, request: Request, component: str, precision: str, size: int, counts: Mapping[str, Count], runs: int
) -> Part:
    """A component: `size` bytes of weights, and what its calls do, by name. A manifest below `home` overrides sizes."""
    weights, activation = engine_memory(home, request, component, precision, {})
    return Part(
        component=component,
        precision=precision,
        weights=weights or Bytes(size, "counted"),
        activation=activation or Bytes(max(count.peak_bytes for count in counts.values()), "counted"),
        operations=tuple(
            Operation(name, _COMPUTES[precision], count.flops, count.moved_bytes) for name, count in counts.items()
        ),
        runs=runs,
    )


def text_encoder_counts(
    model_class: Callable[[Any], torch.nn.Module], config: Any, tokens: int, precision: str
) -> tuple[int, Count]:
    """Bytes of the weights of an encoder of transformers, and what one prompt of `tokens` tokens costs."""
    with torch.device("meta"):
        model = model_class(config).eval().to(DTYPES[precision])
        ids = torch.zeros(1, tokens, dtype=torch.long)
    return parameter_bytes(model), count(lambda: model(ids))


def tile_extents(length: int, tile: int, stride: int) -> list[int]:
    """The lengths of the tiles over one side."""
    return [min(tile, length - start) for start in range(0, length, stride)]
