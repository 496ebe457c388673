"""The two graphs on ONNX Runtime against the model, quantized; and what TensorRT makes of them."""

from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export.check import whole
from export.checkpoint.source import Source
from export.compile import compile_engine
from export.families.magi1 import pipeline, policy
from export.families.magi1.config import MagiConfig
from export.families.magi1.graph import TEXT, write_graphs
from export.families.magi1.pipeline import plain_linears
from export.families.magi1.profiles import cache_bytes, chunk_profiles, text_profiles
from export.families.magi1.recipe import TRANSFORMER
from export.families.magi1.stored_network import NETWORK, PlainTensors
from export.graph.lowering import Build
from export.graph.writing import MAIN
from export.quantize.linears import Dtypes
from export.run.recipe import FixedCall
from tests.families.magi1.tiny import tiny_transformer
from videosdgx.engines.onnxruntime_engine import session_options
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.fp8 import Fp8Linear
from videosdgx.families.magi1.network.rotary import token_positions
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.spec import DEMO

LAYERS = 3


@cache
def model() -> MagiTransformer3DModel:
    return plain_linears(tiny_transformer(num_layers=LAYERS).eval())


@cache
def saved(directory: Path) -> Source:
    model().save_pretrained(directory)
    return Source(NETWORK, "tiny", directory, dict(model().config))


def inputs(past_chunks: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(past_chunks)
    config = MagiConfig.from_dict(dict(model().config))
    positions = token_positions(6 * past_chunks, 6, 3, 4)
    heads = (config.num_query_groups, 2 * config.attention_head_dim)
    with torch.no_grad():
        text_kv = model().encode_text(torch.randn(5, config.caption_channels, generator=generator))
    given = {
        graphs.HIDDEN_STATES: torch.randn(1, config.latent_channels, 6, 6, 8, generator=generator),
        graphs.TIMESTEP: torch.tensor([0.3]),
        graphs.HAS_TEXT: torch.tensor([True]),
        graphs.POSITIONS: positions,
        graphs.TEXT_KV: text_kv,
    }
    past = {graphs.past_input(layer): torch.randn(past_chunks * 72, *heads, generator=generator) for layer in range(LAYERS)}
    return {name: value.numpy() for name, value in (given | past).items()}


def maxima() -> dict[str, float]:
    """The largest input of every layer, over both runs."""
    found: dict[str, float] = {}

    def hook(name: str):
        return lambda _, given: found.__setitem__(name, max(found.get(name, 0.0), float(given[0].abs().max())))

    names = policy.all_linears(MagiConfig.from_dict(dict(model().config)))
    handles = [model().get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    with torch.no_grad():
        for past_chunks in (0, 2):
            pipeline.forward(model(), inputs(past_chunks))
    for handle in handles:
        handle.remove()
    return found


@pytest.fixture(scope="module", params=["fp16", "fp8", "nvfp4"])
def written(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    source = saved(tmp_path_factory.mktemp("model"))
    formats = policy.formats(source.config, request.param)
    build = Build(formats, Dtypes(torch.float32, torch.float16))
    write_graphs(directory, source, build, maxima(), lambda _: None, lambda _: None)
    return request.param, directory, formats


@pytest.mark.parametrize("past_chunks", [0, 2])
def test_the_chunk_graph_computes_what_the_simulation_does(written, past_chunks):
    precision, directory, formats = written
    expected = whole.simulated(TRANSFORMER.whole, model(), formats, maxima())
    given = inputs(past_chunks)
    session = ort.InferenceSession(directory / MAIN.model, session_options(1))
    result = session.run([graphs.VELOCITY], given)[0]
    with torch.no_grad():
        velocity = pipeline.forward(expected, given).numpy()
    error = np.linalg.norm(result - velocity) / np.linalg.norm(velocity)
    # Rounding differences in the last bit now and then flip a code: the exact bar is on single layers.
    assert error < {"fp16": 1e-5, "fp8": 2e-2, "nvfp4": 1e-1}[precision]


def test_each_layer_computes_what_the_simulation_does(written, tmp_path):
    precision, directory, formats = written
    features = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    with torch.no_grad():
        text_kv = model().encode_text(torch.from_numpy(features)).numpy()
    calls = [FixedCall(f"past {past}", MAIN, inputs(past), inputs(past)[graphs.HIDDEN_STATES]) for past in (0, 2)]
    whole.write_calls(tmp_path, [*calls, FixedCall("text", TEXT, {graphs.ENCODER_HIDDEN_STATES: features}, text_kv)])
    kept = whole.read_calls(tmp_path, [MAIN, TEXT])
    assert [call.figure for call in kept] == ["past 0", "past 2", "text"]
    figures = whole.against_simulation(TRANSFORMER.whole, directory, model(), formats, maxima(), kept)
    wanted = {"fp16": [], "fp8": ["fp8_modelopt"], "nvfp4": ["fp8_modelopt", "nvfp4_emulation"]}[precision]
    for name in wanted:
        assert figures[f"relative_error_{name}"] < 1e-3
    # The text's graph has all layers, and none is confused with another.
    assert whole.fixed_snr(directory, kept, 1)["text"] > {"fp16": 50, "fp8": 25, "nvfp4": 20}[precision]


def test_tensorrt_compiles_both_for_the_spark_without_a_gpu(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    source = saved(tmp_path / "model")
    build = Build(policy.formats(source.config, "nvfp4"), Dtypes(torch.bfloat16, torch.bfloat16))
    write_graphs(tmp_path, source, build, maxima(), lambda _: None, lambda _: None)
    assert not (tmp_path / MAIN.model).exists()  # ONNX Runtime does not compute in bf16
    parts = ((MAIN, chunk_profiles(source.config, DEMO, [], 2)), (TEXT, text_profiles(source.config)))
    for files, shapes in parts:
        (memory,) = compile_engine(tmp_path / files.engine, tmp_path / "plan", shapes, "tensorrt_rtx", lambda _: None)
        assert memory.weights_bytes > 0 and (tmp_path / "plan").stat().st_size > 10_000


def test_an_official_fp8_layer_is_read_as_the_weight_it_stands_for():
    torch.manual_seed(0)
    for smoothed in (False, True):
        layer = Fp8Linear(32, 16, smoothed)
        layer.weight.data = torch.randn(1, 16, 32).to(torch.float8_e4m3fn).view(torch.uint8)
        layer.input_scale.data.fill_(0.02)
        layer.weight_scale.data.fill_(0.5)
        if layer.smooth_scale is not None:
            layer.smooth_scale.data = 0.02 * (1 + torch.rand(1, 32))
        stored = {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()}
        plain = PlainTensors(stored)
        assert list(plain) == ["layer.weight"]
        x = torch.randn(4, 32)
        expected = layer(x)
        assert (x @ plain["layer.weight"].T - expected).norm() < 0.05 * expected.norm()


def test_cache_bytes_are_the_specifications():
    config = MagiConfig.from_dict(TRANSFORMERS["4.5b-base"])
    assert cache_bytes(config, 720, 720, 2) == 12150 * 139_264
    assert cache_bytes(MagiConfig.from_dict(TRANSFORMERS["24b-base"]), 1280, 720, 2) == 21600 * 196_608
