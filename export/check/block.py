"""Running one block of an exported graph on ONNX Runtime: all that the machine that compiles a large model can run of it."""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime as ort
from torch import Tensor

from export.graph import cpu, weights
from export.graph.lowering import Build
from export.graph.tracing import Piece, alone, model_proto
from videosdgx.engines.onnxruntime_engine import session_options

_GRAPH, _DATA = "block.onnx", "block.onnx.data"


def run_block(
    piece: Piece,
    prefix: str,
    tensors: Mapping[str, Tensor],
    inputs: Mapping[str, np.ndarray],
    build: Build,
    maxima: Mapping[str, float],
    scratch: Path,
    extra: Iterable[tuple[str, Tensor]] = (),
) -> np.ndarray:
    """The first output of a block whose weights are the `tensors` named `<prefix>...`, and `extra`; `scratch` is filled."""
    graph = cpu.to_standard_operators(alone(piece, prefix))
    offsets, size = weights.layout(graph.weights)
    layers = {weight.name.rpartition(".")[0] for weight in graph.weights} | {weight.name for weight in graph.weights}
    names = (name for name in tensors if name.startswith(prefix))
    own = ((name, tensors[name]) for name in names if name in layers or name.rpartition(".")[0] in layers)
    lowered = weights.lowered(chain(extra, own), graph.weights, build.formats, maxima)
    weights.write(scratch / _DATA, graph.weights, offsets, size, lowered, lambda _: None)
    (scratch / _GRAPH).write_bytes(model_proto(graph, offsets, _DATA).SerializeToString())
    options = session_options(0)
    # Unpacked once and for all, the weights would take four to eight times their memory.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False  # what is unpacked for one layer is given back before the next
    session = ort.InferenceSession(
        scratch / _GRAPH, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
    result: np.ndarray = session.run(None, dict(inputs))[0]
    return result
