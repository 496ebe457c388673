"""The operators that PyTorch has no name for: FP8 and NVFP4 quantization as TensorRT's graphs spell it.

Each is a small custom operator with a real implementation (so that a lowered module also runs in PyTorch) and a
translation into ONNX, given to `torch.onnx.export(custom_translation_table=...)`.
"""

from collections.abc import Callable
from typing import Any

import onnx.defs
import onnxscript
import torch
from onnxscript import opset23 as op
from torch import Tensor

from export.quantize.formats import BLOCK, FP8_MAX, fp8_dequantize, fp8_quantize, nvfp4_dequantize, nvfp4_quantize_dequantize

# What onnx.TensorProto calls the types that a dequantized weight may have.
ONNX_DTYPES = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}
_TORCH_DTYPES = {number: dtype for dtype, number in ONNX_DTYPES.items()}
_FLOAT8E4M3FN = 17
_PROBABILITY_SCALE = 1 / FP8_MAX


_ANY = [f"tensor({name})" for name in ("float", "float16", "bfloat16", "float8e4m3fn", "float4e2m1")]


def _register(domain: str, name: str, inputs: int, outputs: int, attributes: dict[str, str]) -> None:
    """Make an operator known to ONNX's checker and to onnxscript; all of its tensors may have any type."""
    schema = onnx.defs.OpSchema

    def parameter(label: str) -> onnx.defs.OpSchema.FormalParameter:
        return schema.FormalParameter(label, f"T_{label}")

    labels_in, labels_out = [f"in{i}" for i in range(inputs)], [f"out{i}" for i in range(outputs)]
    onnx.defs.register_schema(
        schema(
            name,
            domain,
            1,
            inputs=[parameter(label) for label in labels_in],
            outputs=[parameter(label) for label in labels_out],
            type_constraints=[(f"T_{label}", _ANY, "") for label in labels_in + labels_out],
            attributes=[schema.Attribute(key, getattr(schema.AttrType, kind)) for key, kind in attributes.items()],
        )
    )


_register("trt", "TRT_FP4DynamicQuantize", 2, 2, {"axis": "INT", "block_size": "INT", "scale_type": "INT"})
_register("videosdgx", "Block", 5, 1, {"index": "INT"})
_register("videosdgx", "CachedBlock", 6, 2, {"index": "INT"})
_trt = onnxscript.values.Opset("trt", 1)
_marks = onnxscript.values.Opset("videosdgx", 1)


@torch.library.custom_op("videosdgx::fp8_activation", mutates_args=())
def fp8_activation(x: Tensor, scale: Tensor) -> Tensor:
    """`x` rounded to E4M3 times `scale` (fp32, one number), in the dtype of `x`."""
    return fp8_dequantize(fp8_quantize(x, scale), scale, x.dtype)


@torch.library.custom_op("videosdgx::fp8_probabilities", mutates_args=())
def fp8_probabilities(x: Tensor) -> Tensor:
    """`x` in 0..1 rounded to E4M3 over 448, in its own dtype: nothing to calibrate, 1 is the largest a softmax gives."""
    scale = torch.tensor(_PROBABILITY_SCALE)
    return fp8_dequantize(fp8_quantize(x, scale), scale, x.dtype)


@torch.library.custom_op("videosdgx::fp8_weight", mutates_args=())
def fp8_weight(weight: Tensor, scale: Tensor, onnx_dtype: int) -> Tensor:
    """The weight stored as E4M3 [out, in] times `scale` (fp32, one number), in the dtype that `onnx_dtype` names."""
    return fp8_dequantize(weight, scale, _TORCH_DTYPES[onnx_dtype])


@torch.library.custom_op("videosdgx::nvfp4_activation", mutates_args=())
def nvfp4_activation(x: Tensor, scale: Tensor) -> Tensor:
    """`x` rounded to NVFP4 in blocks of 16 along the last axis, in its own dtype; `scale` is the fp32 global scale."""
    return nvfp4_quantize_dequantize(x, scale)


@torch.library.custom_op("videosdgx::nvfp4_weight", mutates_args=())
def nvfp4_weight(packed: Tensor, block_scale: Tensor, scale: Tensor, onnx_dtype: int) -> Tensor:
    """The weight [out, in] of packed E2M1 [out, in/2], E4M3 block scales [out, in/16] and an fp32 global scale."""
    return nvfp4_dequantize(packed, block_scale, scale, _TORCH_DTYPES[onnx_dtype])


@torch.library.custom_op("videosdgx::block", mutates_args=())
def block(tokens: Tensor, others: list[Tensor], index: int) -> Tensor:
    """Stand in for transformer block `index`, whose graph is traced apart and put here (see `export.graph.tracing`)."""
    raise RuntimeError("videosdgx::block only marks a place in a traced graph")


@torch.library.custom_op("videosdgx::cached_block", mutates_args=())
def cached_block(tokens: Tensor, others: list[Tensor], index: int, groups: int, width: int) -> tuple[Tensor, Tensor]:
    """A mark as `block`, for a block that also gives the keys and values [n, groups, width] of its tokens [B, n, d]."""
    raise RuntimeError("videosdgx::cached_block only marks a place in a traced graph")


@fp8_probabilities.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@fp8_activation.register_fake
@nvfp4_activation.register_fake
def _(x: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(x)


@fp8_weight.register_fake
def _(weight: Tensor, scale: Tensor, onnx_dtype: int) -> Tensor:
    return torch.empty_like(weight, dtype=_TORCH_DTYPES[onnx_dtype])


@nvfp4_weight.register_fake
def _(packed: Tensor, block_scale: Tensor, scale: Tensor, onnx_dtype: int) -> Tensor:
    return packed.new_empty((packed.shape[0], 2 * packed.shape[1]), dtype=_TORCH_DTYPES[onnx_dtype])


@block.register_fake
def _(tokens: Tensor, others: list[Tensor], index: int) -> Tensor:
    return torch.empty_like(tokens)


@cached_block.register_fake
def _(tokens: Tensor, others: list[Tensor], index: int, groups: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(tokens), tokens.new_empty((tokens.shape[1], groups, width))


def _onnx_fp8_activation(x: Any, scale: Any) -> Any:
    quantized = op.QuantizeLinear(x, scale, output_dtype=_FLOAT8E4M3FN)
    return op.DequantizeLinear(quantized, scale, output_dtype=x.dtype.value)


def _onnx_fp8_probabilities(x: Any) -> Any:
    return _onnx_fp8_activation(x, op.Constant(value_float=_PROBABILITY_SCALE))


def _onnx_fp8_weight(weight: Any, scale: Any, onnx_dtype: int) -> Any:
    return op.DequantizeLinear(weight, scale, output_dtype=onnx_dtype)


def _onnx_nvfp4_activation(x: Any, scale: Any) -> Any:
    quantized, block_scale = _trt.TRT_FP4DynamicQuantize(x, scale, axis=-1, block_size=BLOCK, scale_type=_FLOAT8E4M3FN)
    scales = op.DequantizeLinear(block_scale, scale, output_dtype=x.dtype.value)
    return op.DequantizeLinear(quantized, scales, axis=-1, block_size=BLOCK, output_dtype=x.dtype.value)


def _onnx_nvfp4_weight(packed: Any, block_scale: Any, scale: Any, onnx_dtype: int) -> Any:
    scales = op.DequantizeLinear(block_scale, scale, output_dtype=onnx_dtype)
    return op.DequantizeLinear(packed, scales, axis=-1, block_size=BLOCK, output_dtype=onnx_dtype)


def _onnx_block(tokens: Any, others: Any, index: int) -> Any:
    return _marks.Block(tokens, *others, index=index)


def _onnx_cached_block(tokens: Any, others: Any, index: int, groups: int, width: int) -> Any:
    return _marks.CachedBlock(tokens, *others, index=index)


ONNX_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.videosdgx.fp8_activation.default: _onnx_fp8_activation,
    torch.ops.videosdgx.fp8_probabilities.default: _onnx_fp8_probabilities,
    torch.ops.videosdgx.fp8_weight.default: _onnx_fp8_weight,
    torch.ops.videosdgx.nvfp4_activation.default: _onnx_nvfp4_activation,
    torch.ops.videosdgx.nvfp4_weight.default: _onnx_nvfp4_weight,
    torch.ops.videosdgx.block.default: _onnx_block,
    torch.ops.videosdgx.cached_block.default: _onnx_cached_block,
}
