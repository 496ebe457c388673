"""The graph of Wan 2.1's transformer: what is dynamic, and which blocks are of one kind."""

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import torch
from torch.export import Dim

from export.checkpoint.source import Source
from export.families.wan21.constants import constants
from export.families.wan21.lowered import TEXT_LENGTH, Block, LoweredWanTransformer, WanConfig
from export.families.wan21.profiles import IMAGE_TOKENS
from export.graph import weights, writing
from export.graph.lowering import Build
from export.graph.tracing import Piece, Skeleton, assemble, trace
from export.quantize.attention import attention_scales


def _frame(config: WanConfig, build: Build) -> Piece:
    """Everything but the blocks."""
    with torch.device("meta"):
        module = LoweredWanTransformer(config, build, marks=True)
        inputs = {
            "hidden_states": torch.empty(2, config.in_channels, 3, 8, 12),
            "timestep": torch.empty(2),
            "encoder_hidden_states": torch.empty(2, TEXT_LENGTH, config.text_dim),
        }
        if config.image_dim is not None:
            inputs["encoder_hidden_states_image"] = torch.empty(2, IMAGE_TOKENS, config.image_dim)
    batch, frames = Dim("batch", min=1, max=64), Dim("frames", min=1, max=config.rope_max_seq_len)
    rows, columns = (Dim(name, min=1, max=config.rope_max_seq_len) for name in ("rows", "columns"))
    dynamic = {name: {0: batch} for name in inputs}
    patch_h, patch_w = config.patch_size[1:]
    dynamic["hidden_states"] = {0: batch, 2: frames, 3: patch_h * rows, 4: patch_w * columns}
    piece = trace(module, inputs, dynamic, "sample")
    for value in (*piece.inputs, *piece.outputs):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if value.name in ("hidden_states", "sample"):
            for axis, name in zip(dims[2:], ("frames", "height", "width"), strict=True):
                axis.dim_param = name
    return piece


def block_piece(config: WanConfig, build: Build, index: int) -> Piece:
    """One block, with the formats that block `index` has."""
    tokens_traced = 72
    with torch.device("meta"):
        module = Block(f"blocks.{index}", config, build)
        context = TEXT_LENGTH + (IMAGE_TOKENS if config.added_kv_proj_dim is not None else 0)
        compute = build.dtypes.compute
        inputs = {
            "x": torch.empty(2, tokens_traced, config.dim, dtype=compute),
            "context": torch.empty(2, context, config.dim, dtype=compute),
            "timestep_proj": torch.empty(2, 6, config.dim, dtype=compute),
            "cos": torch.empty(1, tokens_traced, 1, config.attention_head_dim // 2),
            "sin": torch.empty(1, tokens_traced, 1, config.attention_head_dim // 2),
        }
    # Twice something, as the feed-forward layers cut the tokens in half; the graph itself takes odd numbers too.
    batch, tokens = Dim("batch", min=1, max=64), 2 * Dim("half", min=4, max=1 << 23)
    dynamic: dict[str, dict[int, Dim]] = {name: {0: batch} for name in ("x", "context", "timestep_proj")}
    dynamic |= {"x": {0: batch, 1: tokens}, "cos": {1: tokens}, "sin": {1: tokens}}
    return trace(module, inputs, dynamic, "y")


def skeleton(config: WanConfig, build: Build) -> Skeleton:
    """The whole graph without weights. Traces as many blocks as there are kinds."""
    blocks = build.pieces("blocks.{}.", config.num_layers, lambda index: block_piece(config, build, index))
    return assemble(_frame(config, build), blocks)


def write_graph(
    directory: Path,
    source: Source,
    build: Build,
    maxima: Mapping[str, float],
    expect: Callable[[float], None],
    advance: Callable[[float], None],
) -> None:
    """Fill `directory` with the quantized ONNX (see `export.graph.writing`).

    `expect` is told the bytes to write, `advance` those written.
    """
    traced = skeleton(source.config, build)
    expect(weights.layout(traced.weights)[1])
    scales = attention_scales(build.fp8_attention, source.config.attention_head_dim, maxima)
    extra = chain(constants(source.config).items(), scales.items())
    writing.write_graph(directory, writing.MAIN, traced, source.tensors, list(source.tensors), extra, build, maxima, advance)
