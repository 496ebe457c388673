"""NVFP4 for ONNX Runtime on a CPU, which has no FP4 operators: the same graph in standard operators.

Every group of nodes that quantizes an activation to NVFP4, and every one that unpacks an NVFP4 weight, becomes a call
of a function of the model with the same numbers: block maximum, E4M3 scale by Cast, E2M1 rounding by arithmetic. The
packed weights keep their bytes; only their declared type changes, to bytes of two codes.
"""

from dataclasses import replace

import onnx
from onnx import TensorProto, helper, parser

from export.graph.tracing import Placeholder, Skeleton

_DOMAIN = "videosdgx"

# x in any float type; everything inside is fp32. A block whose scale is zero divides 0 by 0: Where drops the result.
_ACTIVATION = """
<domain: "videosdgx", opset_import: ["" : 23]>
Nvfp4Activation (x, scale) => (y)
{
   by_block = Constant <value = int64[2] {-1, 16}> ()
   shape = Shape (x)
   outer = Shape <end = -1> (x)
   blocked = Concat <axis = 0> (outer, by_block)
   float = Cast <to = 1> (x)
   blocks = Reshape (float, blocked)
   size = Abs (blocks)
   last = Constant <value = int64[1] {-1}> ()
   largest = ReduceMax <keepdims = 1> (size, last)
   six = Constant <value = float {6.0}> ()
   wanted = Div (largest, six)
   zero = Constant <value = float {0.0}> ()
   top = Constant <value = float {448.0}> ()
   relative = Div (wanted, scale)
   capped = Min (relative, top)
   e4m3 = Cast <to = 17> (capped)
   rounded_scale = Cast <to = 1> (e4m3)
   width = Mul (rounded_scale, scale)
   shown = Greater (width, zero)
   ratio = Div (size, width)
   defined = Where (shown, ratio, zero)
   bounded = Min (defined, six)
   two = Constant <value = float {2.0}> ()
   four = Constant <value = float {4.0}> ()
   one = Constant <value = float {1.0}> ()
   half = Constant <value = float {0.5}> ()
   below_two = Less (bounded, two)
   below_four = Less (bounded, four)
   coarse = Where (below_four, one, two)
   step = Where (below_two, half, coarse)
   steps = Div (bounded, step)
   whole = Round (steps)
   magnitude = Mul (whole, step)
   sign = Sign (blocks)
   signed = Mul (magnitude, sign)
   scaled = Mul (signed, width)
   flat = Reshape (scaled, shape)
   y = CastLike (flat, x)
}
"""

_WEIGHT = """
<domain: "videosdgx", opset_import: ["" : 23]>
Nvfp4Weight <to> (packed, block_scale, scale) => (y)
{
   sixteen = Constant <value = uint8 {16}> ()
   low = Mod (packed, sixteen)
   high = Div (packed, sixteen)
   last = Constant <value = int64[1] {-1}> ()
   low_column = Unsqueeze (low, last)
   high_column = Unsqueeze (high, last)
   pairs = Concat <axis = -1> (low_column, high_column)
   by_block = Constant <value = int64[3] {0, -1, 16}> ()
   codes = Reshape (pairs, by_block)
   index = Cast <to = 6> (codes)
   e2m1 = Constant <value = float[16] {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6}> ()
   values = Gather (e2m1, index)
   block = Cast <to = 1> (block_scale)
   width = Mul (block, scale)
   wide = Unsqueeze (width, last)
   scaled = Mul (values, wide)
   by_row = Constant <value = int64[2] {0, -1}> ()
   float = Reshape (scaled, by_row)
   y = Cast <to: int = @to> (float)
}
"""


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next(attribute.i for attribute in node.attribute if attribute.name == name)


def to_standard_operators(skeleton: Skeleton) -> Skeleton:
    """The same graph without FP4 types or operators; a graph that has none is returned as it is."""
    if not any(weight.onnx_dtype == TensorProto.FLOAT4E2M1 for weight in skeleton.weights):
        return skeleton
    packed = {weight.name for weight in skeleton.weights if weight.onnx_dtype == TensorProto.FLOAT4E2M1}
    producer = {name: node for node in skeleton.nodes for name in node.output}
    nodes, replaced = [], set()
    for node in skeleton.nodes:
        if node.op_type != "DequantizeLinear" or not node.input:
            continue
        source = producer.get(node.input[0])
        if node.input[0] in packed:
            scales = producer[node.input[1]]
            inputs = [node.input[0], *scales.input[:2]]
            call = helper.make_node(
                "Nvfp4Weight", inputs, list(node.output), domain=_DOMAIN, to=_attribute(node, "output_dtype")
            )
        elif source is not None and source.op_type == "TRT_FP4DynamicQuantize" and node.input[0] == source.output[0]:
            scales = producer[node.input[1]]
            call = helper.make_node("Nvfp4Activation", list(source.input), list(node.output), domain=_DOMAIN)
            replaced.add(id(source))
        else:
            continue
        replaced |= {id(scales), id(node)}
        nodes.append((id(node), call))
    calls = dict(nodes)
    rewritten = [calls.get(id(node), node) for node in skeleton.nodes if id(node) not in replaced or id(node) in calls]
    return replace(
        skeleton,
        nodes=rewritten,
        weights=[_as_bytes(weight) for weight in skeleton.weights],
        functions=[parser.parse_function(_ACTIVATION), parser.parse_function(_WEIGHT)],
    )


def _as_bytes(weight: Placeholder) -> Placeholder:
    if weight.onnx_dtype != TensorProto.FLOAT4E2M1:
        return weight
    return Placeholder(weight.name, TensorProto.UINT8, (*weight.shape[:-1], weight.shape[-1] // 2))
