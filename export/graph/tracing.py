"""From modules to one ONNX graph without weights: trace the frame and one block of each kind, repeat the block.

Blocks are alike, so a model of forty layers is traced as fast as one of two. Parameters are on the meta device while
tracing; the graph names them, and `export.graph.weights` writes their bytes beside it afterwards.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from export.quantize.operators import ONNX_TRANSLATIONS

OPSET = 23
IR_VERSION = 11  # the first that knows FLOAT4E2M1
_BITS = {TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.INT64: 64}
_BITS |= {TensorProto.FLOAT8E4M3FN: 8, TensorProto.UINT8: 8, TensorProto.FLOAT4E2M1: 4}


@dataclass(frozen=True)
class Placeholder:
    """A weight that the graph names and does not hold: its name in the checkpoint, ONNX type and shape."""

    name: str
    onnx_dtype: int
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size as raw data; two FLOAT4E2M1 values share a byte."""
        return -(-prod(self.shape) * _BITS[self.onnx_dtype] // 8)


@dataclass
class Piece:
    """A traced module: its nodes, the weights it names, its small constants, its inputs and outputs."""

    nodes: list[onnx.NodeProto]
    weights: list[Placeholder]
    constants: list[TensorProto]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]


@dataclass
class Skeleton:
    """A whole graph whose weights are still to be written."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[Placeholder] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports optional packages that are not installed, and that a mark's result has no known type.

    It also logs every step of tracing for tools that listen, which takes as long as tracing itself where one does.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(module: nn.Module, inputs: Mapping[str, Any], dynamic_shapes: Mapping[str, Any], *outputs: str) -> Piece:
    """Trace `module` (parameters and inputs on the meta device) into ONNX nodes.

    `inputs` are the forward arguments by name; `dynamic_shapes` is `torch.export`'s; `outputs` name the results.
    """
    with _quiet():
        program = torch.export.export(module.eval(), (), dict(inputs), dynamic_shapes=dict(dynamic_shapes))
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=ONNX_TRANSLATIONS,
            output_names=list(outputs),
            optimize=False,
            verbose=False,
        )
    assert exported is not None
    graph = exported.model.graph
    parameters = {name for name, _ in module.named_parameters()}
    # As initializers without values the weights would break the optimizer; as inputs it leaves them alone.
    for name in [name for name in graph.initializers if name in parameters]:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    with _quiet():
        exported.optimize()
        graph = exported.model_proto.graph
    return _piece(graph, parameters)


def _piece(graph: onnx.GraphProto, parameters: set[str]) -> Piece:
    used = {name for node in graph.node for name in node.input}
    weights = [_placeholder(value) for value in graph.input if value.name in parameters and value.name in used]
    # TensorRT wants E2M1 weights by their own type; PyTorch traced them as bytes of two.
    packed = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [_as_e2m1(weight) if weight.name in packed else weight for weight in weights]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    return Piece(
        nodes=list(graph.node),
        weights=weights,
        constants=[item for item in graph.initializer if item.name in used],
        inputs=[value for value in graph.input if value.name not in parameters],
        outputs=list(graph.output),
    )


def _placeholder(value: onnx.ValueInfoProto) -> Placeholder:
    tensor = value.type.tensor_type
    return Placeholder(value.name, tensor.elem_type, tuple(axis.dim_value for axis in tensor.shape.dim))


def _as_e2m1(weight: Placeholder) -> Placeholder:
    if weight.onnx_dtype != TensorProto.UINT8:
        return weight
    return Placeholder(weight.name, TensorProto.FLOAT4E2M1, (*weight.shape[:-1], 2 * weight.shape[-1]))


def _renamed(node: onnx.NodeProto, rename: Callable[[str], str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = rename(node.name)
    copy.input[:] = [rename(name) if name else "" for name in node.input]
    copy.output[:] = [rename(name) if name else "" for name in node.output]
    return copy


def _place(skeleton: Skeleton, block: Piece, mark: onnx.NodeProto, prefix: str, shared: str) -> None:
    """Put a copy of `block` where `mark` is: its weights become `<prefix><name>`, its constants `<shared><name>`."""
    outside = {inner.name: outer for inner, outer in zip(block.inputs, mark.input, strict=True)}
    outside |= {inner.name: outer for inner, outer in zip(block.outputs, mark.output, strict=True)}
    outside |= {constant.name: shared + constant.name for constant in block.constants}
    skeleton.nodes += [_renamed(node, lambda name: outside.get(name, prefix + name)) for node in block.nodes]
    skeleton.weights += [Placeholder(prefix + w.name, w.onnx_dtype, w.shape) for w in block.weights]


def alone(piece: Piece, prefix: str) -> Skeleton:
    """A piece as a whole graph, with its weights named `<prefix><name>`."""
    weights = {weight.name for weight in piece.weights}
    nodes = [_renamed(node, lambda name: prefix + name if name in weights else name) for node in piece.nodes]
    return Skeleton(
        nodes=nodes,
        weights=[Placeholder(prefix + w.name, w.onnx_dtype, w.shape) for w in piece.weights],
        constants=piece.constants,
        inputs=piece.inputs,
        outputs=piece.outputs,
    )


def assemble(frame: Piece, blocks: Iterable[Piece], prefix: str = "blocks.{}.") -> Skeleton:
    """Fill the block marks of `frame`: mark i gets a copy of `blocks[i]` (pieces may repeat) with its names prefixed."""
    by_index = list(blocks)
    skeleton = Skeleton(
        weights=list(frame.weights), constants=list(frame.constants), inputs=frame.inputs, outputs=frame.outputs
    )
    kinds: dict[int, str] = {}
    for node in frame.nodes:
        if node.domain != "videosdgx":
            skeleton.nodes.append(node)
            continue
        index = node.attribute[0].i
        block = by_index[index]
        if id(block) not in kinds:
            shared = kinds[id(block)] = f"block_kind_{len(kinds)}."
            for constant in block.constants:
                copy = TensorProto()
                copy.CopyFrom(constant)
                copy.name = shared + constant.name
                skeleton.constants.append(copy)
        _place(skeleton, block, node, prefix.format(index), kinds[id(block)])
    return skeleton


def model_proto(skeleton: Skeleton, offsets: Mapping[str, int], data_file: str) -> onnx.ModelProto:
    """The ONNX model whose weights lie at `offsets` (bytes) of the external file `data_file`, by relative name."""
    initializers = list(skeleton.constants)
    for weight in skeleton.weights:
        tensor = TensorProto(name=weight.name, data_type=weight.onnx_dtype, dims=weight.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": data_file, "offset": str(offsets[weight.name]), "length": str(weight.bytes)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        initializers.append(tensor)
    graph = helper.make_graph(skeleton.nodes, "transformer", skeleton.inputs, skeleton.outputs, initializers)
    domains = sorted({node.domain for node in skeleton.nodes} - {""})
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(
        graph, producer_name="videosdgx", opset_imports=opsets, ir_version=IR_VERSION, functions=skeleton.functions
    )
