"""A traced graph and its weights as files: one of weights, and the graph for the compiler and for ONNX Runtime beside it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from export.graph import cpu, weights
from export.graph.lowering import Build
from export.graph.tracing import Skeleton, model_proto
from export.run.errors import require_space


@dataclass(frozen=True)
class GraphFiles:
    """Names of a graph's files: for ONNX Runtime, the weights, for the compiler, and what is written so far."""

    model: str
    data: str
    engine: str
    journal: str


MAIN = GraphFiles("model.onnx", "model.onnx.data", "engine.onnx", "written.txt")


def write_graph(
    directory: Path,
    files: GraphFiles,
    traced: Skeleton,
    tensors: Mapping[str, Tensor],
    names: Collection[str],
    extra: Iterable[tuple[str, Tensor]],
    build: Build,
    maxima: Mapping[str, float],
    advance: Callable[[float], None],
) -> None:
    """Write one graph into `directory`; what an earlier attempt wrote of the weights is kept.

    `names` are those of `tensors` that the graph is made of, `extra` what it holds beside them. The graph for ONNX Runtime
    is there if it computes in a dtype that that knows. `advance` is told the bytes written.
    """
    journal = weights.Journal(directory / files.journal)
    if (directory / files.engine).exists() and not (directory / files.journal).exists():
        return
    offsets, size = weights.layout(traced.weights)
    require_space(directory, size - (directory / files.data).stat().st_blocks * 512 if journal.done else size)
    wanted = ((name, tensors[name]) for name in names if name not in journal.done)
    lowered = weights.lowered(chain(extra, wanted), traced.weights, build.formats, maxima)
    weights.write(directory / files.data, traced.weights, offsets, size, lowered, advance, journal)
    forms = {files.engine: traced}
    if build.dtypes.compute != torch.bfloat16:
        forms[files.model] = cpu.to_standard_operators(traced)
    for name, form in forms.items():
        proto = model_proto(form, offsets, files.data)
        (directory / name).write_bytes(proto.SerializeToString(deterministic=True))
    (directory / files.journal).unlink()
