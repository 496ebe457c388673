"""Counts of the transformer against torch's own counter on diffusers' model, and against files that are written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

from export.checkpoint import reading
from export.compile import compile_engine
from export.demo.checkpoint import WAN21
from export.families.wan21 import policy
from export.families.wan21.constants import constants
from export.families.wan21.graph import IMAGE_TOKENS, skeleton
from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from export.graph import weights
from export.graph.lowering import Build
from export.graph.tracing import model_proto
from export.planning.wan21.clip import config
from export.planning.wan21.transformer import activation_bytes, operations, tokens, weights_bytes
from export.quantize.linears import Dtypes
from videosdgx.artifacts import Profile
from videosdgx.families.wan21.architectures import TRANSFORMERS

FP16 = Dtypes(torch.float16, torch.float16)
PRECISIONS = ("fp16", "fp8", "nvfp4")
# docs/specs/wan21.md, section 1: parameters, and weights of the linear layers of the blocks.
COUNTS = {
    "t2v-1.3b": (1_418_996_800, 1_391_984_640),
    "t2v-14b": (14_288_491_584, 14_050_918_400),
    "i2v-14b-480p": (16_394_878_784, 16_148_070_400),
    "i2v-14b-720p": (16_394_878_784, 16_148_070_400),
}


def diffusers_model(variant: str) -> WanTransformer3DModel:
    shape = TRANSFORMERS[variant] if variant in TRANSFORMERS else WanTransformer3DModel.load_config(WAN21 / "transformer")
    with torch.device("meta"):
        return WanTransformer3DModel.from_config(shape).eval()


def counted_by_torch(model: WanTransformer3DModel, latent: tuple[int, int, int]) -> int:
    own = model.config
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(1, own.in_channels, *latent),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, TEXT_LENGTH, own.text_dim),
        }
        if own.image_dim is not None:
            inputs["encoder_hidden_states_image"] = torch.empty(1, IMAGE_TOKENS, own.image_dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("variant", "latent"),
    [
        ("demo", (3, 8, 8)),
        ("t2v-1.3b", (1, 32, 32)),
        ("t2v-1.3b", (21, 60, 104)),
        ("t2v-14b", (21, 90, 160)),
        ("i2v-14b-480p", (21, 60, 104)),
    ],
)
def test_operations_are_those_that_torch_counts(variant, latent):
    planned = sum(operation.flops for operation in operations(config(variant), "fp16", latent))
    assert planned == pytest.approx(counted_by_torch(diffusers_model(variant), latent), rel=1e-9)


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_parameters_are_those_of_the_published_models(variant):
    model = diffusers_model(variant)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[variant][0]
    linears = set(policy.all_linears(config(variant)))
    assert sum(m.weight.numel() for name, m in model.named_modules() if name in linears) == COUNTS[variant][1]


@pytest.mark.parametrize("variant", ["demo", "t2v-14b", "i2v-14b-480p"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_operation_computes_in_the_format_of_its_layer(variant, precision):
    shape = config(variant)
    formats = policy.formats(shape, precision)
    found = {operation.name: operation for operation in operations(shape, precision, (3, 8, 8), "fp8")}
    assert all(found[name].arithmetic == layer_format for name, layer_format in formats.items())
    high = set(policy.all_linears(shape)) - formats.keys()
    assert all(found[name].arithmetic == "fp16" for name in high)
    assert found["blocks.0.attn1"].arithmetic == "fp8"
    assert ("blocks.0.attn2 image" in found) == variant.startswith("i2v")


@pytest.mark.parametrize(
    "precision",
    # The last block of NVFP4 is in FP8: it has layers of every format.
    [pytest.param("fp16", marks=pytest.mark.slow), pytest.param("fp8", marks=pytest.mark.slow), "nvfp4"],
)
def test_weights_are_the_bytes_of_the_file_that_an_export_of_the_demo_writes(precision, tmp_path):
    shape = config("demo")
    formats = policy.formats(shape, precision)
    traced = skeleton(shape, Build(formats, FP16))
    offsets, size = weights.layout(traced.weights)
    tensors = [*constants(shape).items(), *reading.Tensors(WAN21 / "transformer", lambda _: True).items()]
    lowered = weights.lowered(tensors, traced.weights, formats, dict.fromkeys(formats, 1.0))
    weights.write(tmp_path / "weights", traced.weights, offsets, size, lowered, lambda _: None)
    assert weights_bytes(shape, precision) == (tmp_path / "weights").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "precision"), [("t2v-1.3b", "nvfp4"), ("i2v-14b-480p", "fp8")])
def test_weights_at_full_size_are_those_of_the_graph(variant, precision):
    shape = config(variant)
    traced = skeleton(shape, Build(policy.formats(shape, precision), FP16))
    assert weights_bytes(shape, precision) == weights.layout(traced.weights)[1]


def test_bytes_per_weight_by_precision():
    shape, (parameters, linears) = config("t2v-14b"), COUNTS["t2v-14b"]
    fp16, fp8, nvfp4 = (weights_bytes(shape, precision) for precision in PRECISIONS)
    quantized = linears * (shape.num_layers - 1) / shape.num_layers  # all blocks but the last
    assert fp16 == pytest.approx(2 * parameters, rel=0.01)
    assert fp16 - fp8 == pytest.approx(quantized, rel=1e-3)
    # Half a byte and a sixteenth for each value; the last block and what self-attention puts out are in FP8.
    outputs = (shape.num_layers - 1) * shape.dim**2
    assert fp16 - nvfp4 == pytest.approx((2 - 0.5625) * (quantized - outputs) + linears / shape.num_layers + outputs, rel=1e-3)


def test_tokens():
    assert tokens(config("t2v-14b"), (21, 60, 104)) == 32_760
    assert tokens(config("t2v-14b"), (21, 90, 160)) == 75_600


def write_random(path: Path, traced, offsets, size: int) -> None:
    """Weights that differ from one another, or the compiler would find layers that are alike and merge them."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.truncate(size)
        for weight in traced.weights:
            file.seek(offsets[weight.name])
            if weight.onnx_dtype in (1, 10):
                dtype = np.float32 if weight.onnx_dtype == 1 else np.float16
                count = weight.bytes // np.dtype(dtype).itemsize
                file.write((random.random(count, dtype=np.float32) * 0.02 + 0.001).astype(dtype).tobytes())
            else:
                file.write((random.integers(0, 256, weight.bytes, dtype=np.uint8) & 0x77).tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_activations_are_about_what_the_compiler_says(precision, tmp_path):
    """And each attention is one kernel, whose source is in the plan: unfused, one layer's probabilities would fill 4.7 GB."""
    shape = WanConfig.from_dict(TRANSFORMERS["t2v-1.3b"] | {"num_layers": 4})
    latent = (9, 60, 104)
    traced = skeleton(shape, Build(policy.formats(shape, precision), FP16))
    offsets, size = weights.layout(traced.weights)
    write_random(tmp_path / "weights", traced, offsets, size)
    (tmp_path / "engine.onnx").write_bytes(model_proto(traced, offsets, "weights").SerializeToString())
    inputs = {"hidden_states": [1, 16, *latent], "timestep": [1], "encoder_hidden_states": [1, TEXT_LENGTH, 4096]}
    only = Profile(name="one size", min=inputs, opt=inputs, max=inputs)
    (memory,) = compile_engine(tmp_path / "engine.onnx", tmp_path / "plan", [only], "tensorrt_rtx", lambda _: None)
    assert memory.weights_bytes == pytest.approx(size, rel=0.02)
    assert activation_bytes(shape, latent) == pytest.approx(memory.activation_bytes, rel=0.3)
    fused = b"#include <fmha_v2/fused_multihead_flash_attention_kernel"
    assert (tmp_path / "plan").read_bytes().count(fused) == 2 * shape.num_layers
