"""FP8 attention: its numbers against an emulation on diffusers' model, ONNX Runtime, and the compiler's fused kernel."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export.compile import compile_engine
from export.families.wan21 import policy
from export.families.wan21.constants import constants
from export.families.wan21.graph import skeleton
from export.families.wan21.lowered import LoweredWanTransformer, WanConfig
from export.families.wan21.profiles import profiles
from export.graph import weights
from export.graph.lowering import Build
from export.graph.tracing import model_proto
from export.quantize.attention import FEWEST_KEYS, attention_scales
from export.quantize.calibration import input_maxima, simulate_fp8
from export.quantize.emulation import e4m3, simulate_fp8_attention
from export.quantize.linears import Dtypes
from export.quantize.operators import fp8_probabilities
from tests.families.wan21.tiny import random_inputs, random_transformer
from videosdgx.artifacts import Profile
from videosdgx.engines.onnxruntime_engine import session_options
from videosdgx.families.wan21.spec import SPEC

CONFIG = WanConfig.from_dict(dict(random_transformer().config))
INPUTS = random_inputs(CONFIG)
ATTENTIONS = [f"blocks.{index}.attn1" for index in range(CONFIG.num_layers)]
FP32 = Dtypes(torch.float32, torch.float32)


def calibrated() -> dict[str, float]:
    model = random_transformer()
    return input_maxima(model, [], lambda: model(**INPUTS), ATTENTIONS)


MAXIMA = calibrated()


def build(dtypes: Dtypes) -> Build:
    return Build({}, dtypes, frozenset(ATTENTIONS))


def tensors() -> dict[str, Tensor]:
    return (
        random_transformer().state_dict() | constants(CONFIG) | attention_scales(ATTENTIONS, CONFIG.attention_head_dim, MAXIMA)
    )


def emulated() -> Tensor:
    model = random_transformer()
    simulate_fp8_attention(model, MAXIMA)
    with torch.no_grad():
        return model(**INPUTS).sample


def error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


def test_modelopts_maxima_are_what_goes_into_the_products():
    found: list[tuple[float, ...]] = []

    class Record(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.scaled_dot_product_attention:
                found.append(tuple(float(kwargs[name].abs().max()) for name in ("query", "key", "value")))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Record():
        random_transformer()(**INPUTS)
    own = found[0::2]  # each block attends to itself, then to the text
    assert own == [tuple(pytest.approx(MAXIMA[f"{name}.{part}"]) for part in "qkv") for name in ATTENTIONS]


def test_probabilities_are_rounded_to_448ths():
    x = torch.cat([torch.rand(1000), torch.tensor([0.0, 1.0, 1e-3, 1e-6])])
    assert torch.allclose(fp8_probabilities(x), e4m3(x, 1.0), rtol=1e-6, atol=0)
    assert fp8_probabilities(x)[-3] == 1.0 and fp8_probabilities(x.half()).dtype == torch.float16


def test_the_lowered_module_computes_what_the_emulation_does():
    lowered = LoweredWanTransformer(CONFIG, build(FP32))
    lowered.load_state_dict(tensors())
    with torch.no_grad():
        result, plain = lowered(**INPUTS), random_transformer()(**INPUTS).sample
    assert error(result, emulated()) < 1e-3
    assert 2e-3 < error(result, plain) < 0.1  # it is felt


def test_the_emulation_works_on_top_of_modelopts_linear_layers():
    model = random_transformer()
    simulate_fp8(model, {"blocks.0.attn1.to_q": 5.0})
    with torch.no_grad():
        before = model(**INPUTS).sample
    simulate_fp8_attention(model, MAXIMA)
    with torch.no_grad():
        after = model(**INPUTS).sample
    assert 2e-3 < error(after, before) < 0.1


def write_graph(directory: Path, dtypes: Dtypes) -> Path:
    traced = skeleton(CONFIG, build(dtypes))
    offsets, size = weights.layout(traced.weights)
    lowered = weights.lowered(tensors().items(), traced.weights, {}, {})
    weights.write(directory / "weights", traced.weights, offsets, size, lowered, lambda _: None)
    path = directory / "model.onnx"
    path.write_bytes(model_proto(traced, offsets, "weights").SerializeToString())
    return path


def test_onnx_runtime_computes_what_the_emulation_does(tmp_path):
    session = ort.InferenceSession(write_graph(tmp_path, FP32), session_options(1))
    (result,) = session.run(None, {name: value.numpy() for name, value in INPUTS.items()})
    assert error(torch.from_numpy(np.asarray(result)), emulated()) < 1e-3


def test_blocks_with_and_without_it_are_traced_apart():
    made = Build({}, FP32, frozenset(ATTENTIONS[:1]))
    assert made.kind("blocks.0.") != made.kind("blocks.1.") == Build({}, FP32).kind("blocks.0.")


def test_the_policy_leaves_the_last_block_and_the_text_alone():
    assert policy.fp8_attentions(CONFIG) == ["blocks.0.attn1"]


@pytest.mark.slow
def test_the_compiler_fuses_it(tmp_path):
    """Unfused, the probabilities of one head of one layer alone would fill 2 * 4096 * 4096 bytes."""
    pytest.importorskip("tensorrt_rtx")
    tokens = 4096
    shapes = [
        {"hidden_states": [1, 16, 1, side, side], "timestep": [1], "encoder_hidden_states": [1, 512, CONFIG.text_dim]}
        for side in (16, 128, 128)  # 64 tokens to 4096
    ]
    profile = Profile(name="long", min=shapes[0], opt=shapes[1], max=shapes[2])
    path = write_graph(tmp_path, Dtypes(torch.float16, torch.float16))
    (memory,) = compile_engine(path, tmp_path / "engine.plan", [profile], "tensorrt_rtx", lambda _: None)
    assert 0 < (memory.activation_bytes or 0) < 2 * tokens * tokens


def test_the_smallest_shapes_of_real_variants_have_enough_keys():
    for variant in SPEC.variants.values():
        _, _, frames, height, width = profiles(CONFIG, variant)[0].min["hidden_states"]
        assert variant.name == "demo" or frames * height * width // 4 >= FEWEST_KEYS
