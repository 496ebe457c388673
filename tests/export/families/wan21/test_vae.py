"""The video decoder in steps: exact, in tiles, as a graph on ONNX Runtime, and compiled for the Spark."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderKLWan

from export.checkpoint import reading
from export.demo.checkpoint import WAN21
from export.families.wan21 import vae_recipe
from export.families.wan21.vae_graph import cache_shapes
from export.families.wan21.vae_lowered import LoweredVaeDecoder, Step, VaeConfig, decoder_tensors
from export.run.errors import ExportError
from export.run.job import Settings
from tests.export import exports
from videosdgx.artifacts import verify
from videosdgx.engines.onnxruntime_engine import session_options
from videosdgx.families.wan21.vae_loop import FRAMES, LATENT, DecoderLoop, Tiling, cache_input, cache_output

SMALL_TILES = Tiling(size=48, stride=32)


def plain_vae(base_dim: int = 4, **changes: Any) -> AutoencoderKLWan:
    """Wan 2.1's own layout, narrow; biases and norms differ from 0 and 1, and most frames stay within -1..1."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=base_dim, **changes).eval()
    for parameter in vae.parameters():
        if parameter.ndim > 1 and parameter[0].numel() > 1:
            parameter.data = torch.randn_like(parameter) * parameter[0].numel() ** -0.5
        else:
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    vae.decoder.conv_out.weight.data *= 0.2
    return vae


def demo_vae() -> AutoencoderKLWan:
    return AutoencoderKLWan.from_pretrained(WAN21 / "vae").eval()


class TorchStep:
    """One step in PyTorch, as an engine."""

    def __init__(self, vae: AutoencoderKLWan, first: bool) -> None:
        self.module = LoweredVaeDecoder(VaeConfig.from_dict(dict(vae.config)), Step(first, torch.float32))
        self.module.load_state_dict(decoder_tensors(vae.state_dict(), first))

    @torch.inference_mode()
    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        cache = [inputs[cache_input(index)] for index in range(len(inputs) - 1)]
        frames, *after = self.module(torch.from_numpy(inputs[LATENT]), cache or None)
        return {FRAMES: frames.numpy()} | {cache_output(index): tensor for index, tensor in enumerate(after)}


class OnnxStep:
    """One step on ONNX Runtime, as an engine."""

    def __init__(self, path: Path) -> None:
        self.session = ort.InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, inputs), strict=True))


def torch_loop(vae: AutoencoderKLWan, tiling: Tiling = SMALL_TILES, **more: Any) -> DecoderLoop:
    return DecoderLoop(TorchStep(vae, True), TorchStep(vae, False), tiling, patch=vae.config.patch_size or 1, **more)


def decoded(vae: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        video = vae.decode(latents).sample.numpy()
    assert (np.abs(video) < 1).mean() > 0.9  # clamping must not hide a difference
    return video


@pytest.mark.parametrize("make", [plain_vae, demo_vae])
def test_steps_equal_diffusers(make):
    vae = make()
    latents = torch.randn(2, 16, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    video = torch_loop(vae, Tiling()).decode(latents.numpy())
    assert video.shape == (2, 3, 13, 48, 40) and video.dtype == np.float32
    assert np.abs(video - decoded(vae, latents)).max() <= 1e-5


@pytest.mark.parametrize("make", [plain_vae, demo_vae])
@pytest.mark.parametrize("size", [(10, 11), (6, 8), (13, 4)])
def test_tiles_equal_diffusers(make, size):
    vae = make()
    vae.enable_tiling(48, 48, 32, 32)
    latents = torch.randn(1, 16, 3, *size, generator=torch.Generator().manual_seed(2))
    assert np.abs(torch_loop(vae).decode(latents.numpy()) - decoded(vae, latents)).max() <= 1e-5


def test_sizes_that_the_engines_take_whole_are_not_cut():
    vae = plain_vae()
    latents = torch.randn(1, 16, 2, 6, 9, generator=torch.Generator().manual_seed(3))
    whole = decoded(vae, latents)
    assert np.abs(torch_loop(vae, whole=((48, 72),)).decode(latents.numpy()) - whole).max() <= 1e-5
    assert np.abs(torch_loop(vae, whole=((48, 64),)).decode(latents.numpy()) - whole).max() > 1e-3


def test_the_cache_is_not_changed_in_place():
    step = TorchStep(plain_vae(), False)
    config = VaeConfig.from_dict({"base_dim": 4})
    cache = [torch.randn(1, c, 2, 4 * s, 4 * s) for c, s in cache_shapes(config)]
    before = [tensor.clone() for tensor in cache]
    step.run({LATENT: np.zeros((1, 16, 1, 4, 4), np.float32)} | {cache_input(i): t for i, t in enumerate(cache)})
    assert all(torch.equal(tensor, other) for tensor, other in zip(cache, before, strict=True))


def test_full_size_has_a_cached_tensor_per_causal_convolution():
    """diffusers has a 33rd entry, for a 1 x 1 convolution, that it never uses."""
    shapes = cache_shapes(VaeConfig())
    assert len(shapes) == 32 and shapes[0] == (16, 1) and shapes[-1] == (96, 8)
    with torch.device("meta"):
        vae, step = AutoencoderKLWan(), LoweredVaeDecoder(VaeConfig(), Step(False, torch.float16))
    wanted = sum(parameter.numel() for part in (vae.decoder, vae.post_quant_conv) for parameter in part.parameters())
    assert sum(parameter.numel() for parameter in step.parameters()) == wanted


@pytest.fixture(scope="module", params=["plain", pytest.param("demo", marks=pytest.mark.slow)])
def graphs(request, tmp_path_factory):
    """Both steps in fp32 on ONNX Runtime, and the VAE they are of: few layers, so that tracing is quick."""
    if request.param == "plain":
        vae = plain_vae(4, num_res_blocks=0, dim_mult=[1, 2, 2, 2])
    else:
        torch.manual_seed(4)
        settings = {"base_dim": 4, "num_res_blocks": 0}
        vae = AutoencoderKLWan.from_config(reading.config(WAN21 / "vae") | settings).eval()
    config = VaeConfig.from_dict(dict(vae.config))
    directory = tmp_path_factory.mktemp(request.param)
    vae_recipe.write_graphs(directory, config, vae.state_dict(), torch.float32)
    return vae, [OnnxStep(directory / files.model) for files in (vae_recipe.FIRST, vae_recipe.FOLLOWING)]


def test_graphs_equal_diffusers_at_any_size(graphs):
    vae, (first, following) = graphs
    vae.enable_tiling(48, 48, 32, 32)
    loop = DecoderLoop(first, following, SMALL_TILES, patch=vae.config.patch_size or 1)
    for shape in ((1, 16, 3, 7, 9), (2, 16, 4, 5, 6), (1, 16, 1, 2, 2)):
        latents = torch.randn(*shape, generator=torch.Generator().manual_seed(5))
        assert np.abs(loop.decode(latents.numpy()) - decoded(vae, latents)).max() <= 1e-4


def test_graph_takes_more_than_one_clip(graphs):
    _, (first, _) = graphs
    latents = np.random.default_rng(0).standard_normal((3, 16, 1, 4, 6)).astype(np.float32)
    together = first.run({LATENT: latents})[FRAMES]
    apart = np.concatenate([first.run({LATENT: latents[i : i + 1]})[FRAMES] for i in range(3)])
    assert np.abs(together - apart).max() <= 1e-5


def small_checkpoint(directory: Path, vae: AutoencoderKLWan) -> Path:
    vae.save_pretrained(directory / "vae")
    shutil.copy(WAN21 / "model_index.json", directory)
    return directory


def settings(home: Path, source: Path, precision: str = "fp16", **more: Any) -> Settings:
    return Settings(home, "demo", precision, "sm121", checkpoint=str(source), **more)


def export(asked: Settings) -> Path:
    return exports.run("wan21", asked, "vae")


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_writes_an_artifact_for_the_spark(tmp_path, precision):
    pytest.importorskip("tensorrt_rtx")
    vae = plain_vae(8, num_res_blocks=0, dim_mult=[1, 2, 2, 2])
    source = small_checkpoint(tmp_path / "source", vae)
    asked = settings(tmp_path, source, precision, resolutions=((320, 64),))
    directory = export(asked)
    manifest = verify(directory)
    assert set(manifest.files) == {"first.plan", "next.plan", "config.json"} and manifest.component == "vae"
    assert [profile.max[LATENT][3:] for profile in manifest.profiles] == [[32, 32], [8, 40]]
    memory = manifest.memory
    assert memory is not None and memory.activation_bytes and memory.peak_bytes
    decoder = sum(t.numel() for name, t in vae.state_dict().items() if name.startswith(("decoder", "post_quant")))
    assert 2 * decoder < memory.weights_bytes < 1.6 * 2 * decoder  # the first step's kernels have a third of the planes
    assert memory.peak_bytes > memory.weights_bytes + memory.activation_bytes
    assert manifest.accuracy["noise_psnr_db"] > {"fp16": 60, "bf16": 45}[precision]
    assert not manifest.random_weights
    written = (directory / "next.plan").stat().st_mtime_ns
    assert export(asked) == directory
    assert (directory / "next.plan").stat().st_mtime_ns == written


def test_a_size_that_cannot_be_decoded_whole_is_named(tmp_path):
    with pytest.raises(ExportError, match="cannot decode 830x480 whole"):
        export(settings(tmp_path, small_checkpoint(tmp_path / "source", plain_vae()), resolutions=((830, 480),)))


def test_random_weights_are_a_decoder_of_the_published_shape(tmp_path):
    source = exports.job("wan21", Settings(tmp_path, "t2v-14b", "fp16", "sm121", random_weights=True), "vae").source
    assert source.random and VaeConfig.from_dict(source.content) == VaeConfig()
    with torch.device("meta"):
        decoder = LoweredVaeDecoder(VaeConfig(), Step(False, torch.float16))
    shapes = {name: tuple(tensor.shape) for name, tensor in decoder_tensors(dict(source.tensors), False).items()}
    assert shapes == {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
    gains = source.tensors["decoder.norm_out.gamma"]
    assert abs(float(gains.mean()) - 1) < 0.05
