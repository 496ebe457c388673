"""The two graphs of MAGI-1's transformer: what is dynamic, which blocks are of one kind, which weights are whose."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import torch
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from torch.export import Dim

from export.checkpoint.source import Source
from export.families.magi1.config import CHUNK_FRAMES, PATCH, MagiConfig, block_name
from export.families.magi1.constants import MADE_FROM, constants
from export.families.magi1.traced import Block, ChunkFrame, Text
from export.graph import weights, writing
from export.graph.lowering import Build
from export.graph.tracing import Piece, Skeleton, alone, assemble, trace
from export.graph.writing import GraphFiles
from export.run.errors import ExportError
from videosdgx.families.magi1.engine import graphs

TEXT = GraphFiles(graphs.TEXT_ONNX, f"{graphs.TEXT_ONNX}.data", "text-engine.onnx", "text-written.txt")
_MOST_TOKENS = 1 << 22
_TRACED_TOKENS, _TRACED_PAST, _TRACED_TEXT = 72, 144, 7


def _frame(config: MagiConfig, build: Build) -> Piece:
    """Everything of the chunk's graph but the blocks."""
    compute, heads = build.dtypes.compute, (config.num_query_groups, 2 * config.attention_head_dim)
    with torch.device("meta"):
        module = ChunkFrame(config, build)
        inputs = {
            graphs.HIDDEN_STATES: torch.empty(1, config.latent_channels, CHUNK_FRAMES, 6, 8),
            graphs.TIMESTEP: torch.empty(1),
            graphs.HAS_TEXT: torch.empty(1, dtype=torch.bool),
            graphs.POSITIONS: torch.empty(_TRACED_TOKENS, 3),
            graphs.TEXT_KV: torch.empty(config.num_layers, _TRACED_TEXT, *heads, dtype=compute),
            "past_kv": [torch.empty(_TRACED_PAST, *heads, dtype=compute) for _ in range(config.num_layers)],
        }
        if config.distilled:
            inputs[graphs.STEP_SIZE] = torch.empty(1)
    rows, columns = (Dim(name, min=2, max=1024) for name in ("rows", "columns"))
    dynamic: dict[str, object] = dict.fromkeys(inputs)
    dynamic |= {
        graphs.HIDDEN_STATES: {3: PATCH * rows, 4: PATCH * columns},
        graphs.POSITIONS: {0: Dim("tokens", min=1, max=_MOST_TOKENS)},
        graphs.TEXT_KV: {1: Dim("text", min=1, max=config.caption_max_length)},
        "past_kv": [{0: Dim("past", min=0, max=_MOST_TOKENS)}] * config.num_layers,
    }
    outputs = [graphs.VELOCITY, *(graphs.present_output(layer) for layer in range(config.num_layers))]
    piece = trace(module, inputs, dynamic, *outputs)
    for value in (*piece.inputs, *piece.outputs):
        dims = value.type.tensor_type.shape.dim
        if value.name in (graphs.HIDDEN_STATES, graphs.VELOCITY):
            dims[3].dim_param, dims[4].dim_param = "height", "width"
        elif value.name == graphs.POSITIONS:
            dims[0].dim_param = "tokens"
    # What comes out of a mark has no known type.
    kind = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}[compute]
    velocity, *present = piece.outputs
    piece.outputs = [velocity, *(make_tensor_value_info(value.name, kind, ["tokens", *heads]) for value in present)]
    return piece


def block_piece(config: MagiConfig, build: Build, index: int) -> Piece:
    """One block, with the formats that block `index` has."""
    compute, heads = build.dtypes.compute, (config.num_query_groups, 2 * config.attention_head_dim)
    with torch.device("meta"):
        module = Block(index, config, build)
        inputs = {
            "x": torch.empty(1, _TRACED_TOKENS, config.hidden_size, dtype=compute),
            "condition": torch.empty(1, config.condition_size, dtype=compute),
            "cos": torch.empty(_TRACED_TOKENS, 1, 3 * config.attention_head_dim // 8),
            "sin": torch.empty(_TRACED_TOKENS, 1, 3 * config.attention_head_dim // 8),
            graphs.TEXT_KV: torch.empty(_TRACED_TEXT, *heads, dtype=compute),
            "past_kv": torch.empty(_TRACED_PAST, *heads, dtype=compute),
        }
    # Twice something, as the MLP cuts the tokens in half: a chunk has six frames.
    tokens = 2 * Dim("half", min=2, max=_MOST_TOKENS)
    dynamic: dict[str, object] = {
        "x": {1: tokens},
        "condition": None,
        "cos": {0: tokens},
        "sin": {0: tokens},
        graphs.TEXT_KV: {0: Dim("text", min=1, max=config.caption_max_length)},
        "past_kv": {0: Dim("past", min=0, max=_MOST_TOKENS)},
    }
    return trace(module, inputs, dynamic, "y", "present_kv")


def chunk_skeleton(config: MagiConfig, build: Build) -> Skeleton:
    """The chunk's graph without weights."""
    blocks = build.pieces(block_name("{}") + ".", config.num_layers, lambda index: block_piece(config, build, index))
    return assemble(_frame(config, build), blocks, block_name("{}") + ".")


def text_skeleton(config: MagiConfig, build: Build) -> Skeleton:
    """The text's graph without weights."""
    with torch.device("meta"):
        module = Text(config, build)
        inputs = {graphs.ENCODER_HIDDEN_STATES: torch.empty(_TRACED_TEXT, config.caption_channels)}
    dynamic = {graphs.ENCODER_HIDDEN_STATES: {0: Dim("text", min=1, max=config.caption_max_length)}}
    return alone(trace(module, inputs, dynamic, graphs.TEXT_KV), "")


def _owned(graph: Skeleton, tensors: Iterable[str]) -> list[str]:
    """Which of the checkpoint's tensors a graph is made of: those of the layers that it names."""
    layers = {weight.name.rpartition(".")[0] for weight in graph.weights}
    return [name for name in tensors if name.rpartition(".")[0] in layers and name not in MADE_FROM]


def split(chunk: Skeleton, text: Skeleton, tensors: Collection[str]) -> tuple[list[str], list[str]]:
    """Names of the tensors of the chunk's graph, and of the text's.

    Raises:
        ExportError: a tensor is of neither.
    """
    of_chunk, of_text = _owned(chunk, tensors), _owned(text, tensors)
    unknown = sorted(set(tensors) - set(of_chunk) - set(of_text) - set(MADE_FROM))
    if unknown:
        raise ExportError(f"the checkpoint has a tensor {unknown[0]} that this model does not know")
    return of_chunk, of_text


def write_graphs(
    directory: Path,
    source: Source,
    build: Build,
    maxima: Mapping[str, float],
    expect: Callable[[float], None],
    advance: Callable[[float], None],
) -> None:
    """Fill `directory` with both quantized graphs (see `export.graph.writing`). `expect` is told the bytes to write."""
    config, tensors = source.config, source.tensors
    chunk, text = chunk_skeleton(config, build), text_skeleton(config, build)
    of_chunk, of_text = split(chunk, text, tensors)
    expect(sum(weights.layout(one.weights)[1] for one in (chunk, text)))
    extra = constants(tensors).items()
    writing.write_graph(directory, writing.MAIN, chunk, tensors, of_chunk, extra, build, maxima, advance)
    writing.write_graph(directory, TEXT, text, tensors, of_text, (), build, maxima, advance)
