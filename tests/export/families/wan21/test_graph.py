"""The traced graph on ONNX Runtime, in every precision, against PyTorch; and what TensorRT makes of it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor

from export.check.whole import as_stored
from export.compile import compile_engine
from export.families.wan21 import policy
from export.families.wan21.constants import constants
from export.families.wan21.graph import skeleton
from export.families.wan21.lowered import WanConfig
from export.families.wan21.profiles import profiles
from export.families.wan21.recipe import TRANSFORMER
from export.graph import cpu, weights
from export.graph.lowering import Build
from export.graph.tracing import model_proto
from export.quantize.calibration import simulate_fp8
from export.quantize.linears import Dtypes
from tests.families.wan21.tiny import input_amax, random_inputs, random_transformer
from videosdgx.engines.onnxruntime_engine import session_options
from videosdgx.families.wan21.spec import DEMO

MODEL = random_transformer()
CONFIG = WanConfig.from_dict(dict(MODEL.config))
INPUTS = random_inputs(CONFIG)
AMAX = input_amax(MODEL, INPUTS)


def write_graph(directory: Path, precision: str, compute: torch.dtype) -> Path:
    build = Build(policy.formats(CONFIG, precision), Dtypes(compute, torch.float16))
    traced = skeleton(CONFIG, build)
    offsets, size = weights.layout(traced.weights)
    tensors = list((MODEL.state_dict() | constants(CONFIG)).items())
    lowered = weights.lowered(tensors, traced.weights, build.formats, AMAX)
    weights.write(directory / "weights", traced.weights, offsets, size, lowered, lambda _: None)
    for name, form in (("engine.onnx", traced), ("model.onnx", cpu.to_standard_operators(traced))):
        (directory / name).write_bytes(model_proto(form, offsets, "weights").SerializeToString())
    return directory


@pytest.fixture(scope="module", params=["fp16", "fp8", "nvfp4"])
def cpu_graph(request, tmp_path_factory):
    return request.param, write_graph(tmp_path_factory.mktemp(request.param), request.param, torch.float32)


def run(directory: Path, inputs: dict[str, Tensor]) -> np.ndarray:
    session = ort.InferenceSession(directory / "model.onnx", session_options(1))
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def brute_force_nvfp4(x: Tensor, amax: float, top: float = 6) -> Tensor:
    """NVFP4 straight from its definition, in double precision, by comparing with all sixteen values."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    values = torch.cat([values, -values])
    blocks = x.double().reshape(-1, 16)
    scale = torch.tensor(amax, dtype=torch.float64) / (448 * 6)
    block = (blocks.abs().amax(1) / top / scale).clamp(max=448).float().to(torch.float8_e4m3fn).double() * scale
    ratio = torch.nan_to_num(blocks / block[:, None])
    nearest = (ratio[..., None] - values).abs().argmin(-1)
    return (values[nearest] * block[:, None]).float().reshape(x.shape)


def brute_force_nvfp4_weight(weight: Tensor) -> Tensor:
    """Of the two scales of each block, the one of smaller squared error."""
    both = [brute_force_nvfp4(weight, float(weight.abs().max()), top).reshape(-1, 16) for top in (6, 4)]
    errors = [(shown - weight.reshape(-1, 16)).double().square().sum(1) for shown in both]
    return torch.where((errors[1] < errors[0])[:, None], both[1], both[0]).reshape(weight.shape)


def reference(precision: str) -> Tensor:
    formats = policy.formats(CONFIG, precision)
    model = as_stored(TRANSFORMER.whole, MODEL, formats)
    simulate_fp8(model, {name: AMAX[name] for name, own in formats.items() if own == "fp8"})
    for name in (name for name, own in formats.items() if own == "nvfp4"):
        layer = model.get_submodule(name)
        shown = brute_force_nvfp4_weight(layer.weight.detach())
        layer.forward = lambda x, shown=shown, bias=layer.bias, amax=AMAX[name]: F.linear(
            brute_force_nvfp4(x, amax), shown, bias
        )
    with torch.no_grad():
        return model(**INPUTS).sample


def test_graph_computes_what_the_simulation_does(cpu_graph):
    precision, directory = cpu_graph
    expected = reference(precision).numpy()
    error = np.linalg.norm(run(directory, INPUTS) - expected) / np.linalg.norm(expected)
    assert error < {"fp16": 1e-5, "fp8": 1e-3, "nvfp4": 1e-3}[precision], f"{precision}: {error}"


def test_quantization_is_felt(cpu_graph):
    precision, directory = cpu_graph
    with torch.no_grad():
        expected = MODEL(**INPUTS).sample.numpy()
    error = np.linalg.norm(run(directory, INPUTS) - expected) / np.linalg.norm(expected)
    least, most = {"fp16": (1e-5, 2e-3), "fp8": (2e-3, 0.1), "nvfp4": (0.02, 0.4)}[precision]
    assert least < error < most


@pytest.mark.parametrize("latent", [(1, 4, 10), (3, 6, 10)], ids=["even", "odd number of tokens"])
def test_other_sizes_run(cpu_graph, latent):
    _, directory = cpu_graph
    inputs = {
        "hidden_states": torch.randn(1, 16, *latent),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 512, 64),
    }
    with torch.no_grad():
        expected = MODEL(**inputs).sample
    result = run(directory, inputs)
    assert result.shape == expected.shape and result.dtype == np.float32
    assert np.linalg.norm(result - expected.numpy()) / np.linalg.norm(expected.numpy()) < 0.4


def test_weights_are_stored_quantized(cpu_graph):
    precision, directory = cpu_graph
    graph = onnx.load(directory / "engine.onnx", load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    wanted = {"fp16": TensorProto.FLOAT16, "fp8": TensorProto.FLOAT8E4M3FN, "nvfp4": TensorProto.FLOAT4E2M1}[precision]
    assert types["blocks.0.ffn.net.0.proj.weight"] == wanted
    assert types["proj_out.weight"] == TensorProto.FLOAT16
    lengths = {
        tensor.name: int({entry.key: entry.value for entry in tensor.external_data}["length"])
        for tensor in graph.initializer
        if tensor.external_data
    }
    per_value = {"fp16": 2, "fp8": 1, "nvfp4": 0.5}[precision]
    assert lengths["blocks.0.ffn.net.0.proj.weight"] == 96 * 48 * per_value


@pytest.mark.parametrize("precision", ["fp8", "nvfp4"])
def test_tensorrt_compiles_for_the_spark_without_a_gpu(precision, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    directory = write_graph(tmp_path, precision, torch.float16)
    shapes = profiles(CONFIG, DEMO)
    graph, peaks = directory / "engine.onnx", []
    (memory,) = compile_engine(graph, tmp_path / "engine.plan", shapes, "tensorrt_rtx", lambda _: None, peaks.append)
    assert (tmp_path / "engine.plan").stat().st_size > 100_000
    assert 1e8 < peaks[0] < 2e9
    formats = policy.formats(CONFIG, precision)
    sizes = {"fp8": 1.0, "nvfp4": 0.5625}  # bytes per value: packed, with a scale per sixteen
    counts = {name: MODEL.get_submodule(name).weight.numel() for name in formats}
    packed = sum(sizes[formats[name]] * count for name, count in counts.items())
    # The rest is fp16, a little of it and the tables fp32.
    rest = sum(parameter.numel() for parameter in MODEL.parameters()) - sum(counts.values())
    tables = sum(table.numel() for table in constants(CONFIG).values())
    assert packed < memory.weights_bytes < 1.1 * (packed + 2 * rest + 4 * tables)
    assert memory.activation_bytes and memory.activation_bytes > 0
    # fp16 on ONNX Runtime too: what is compiled computes what it should.
    with torch.no_grad():
        expected = MODEL(**INPUTS).sample.numpy()
    error = np.linalg.norm(run(directory, INPUTS) - expected) / np.linalg.norm(expected)
    assert error < {"fp8": 0.1, "nvfp4": 0.4}[precision]
