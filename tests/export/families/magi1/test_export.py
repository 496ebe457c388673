"""The command from a MAGI-1 checkpoint to artifacts: the demo's way, and that of the published variants."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.families.magi1.profiles import MOST_PAST
from tests.export import exports
from tests.families.magi1.tiny import CONFIG, GATED, LAYERS, tiny_pipeline, tiny_transformer
from videosdgx.artifacts import verify
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.fp8 import Fp8Linear


def export(home: Path, *options: str) -> tuple[int, str]:
    return exports.export("magi1", "--home", str(home), "--clips", "1", "--threads", "1", *options)


@pytest.mark.usefixtures("short_clips")
def test_the_demo_on_a_cpu_and_compiled(tiny_magi1: Path, tmp_path: Path) -> None:
    given = ("--checkpoint", str(tiny_magi1))
    code, output = export(tmp_path, *given, "--precision", "fp8")
    assert code == 0, output
    below = tmp_path / "artifacts/magi1/demo"
    for name in ("text_encoder/fp32-cpu", "vae/fp32-cpu", "pipeline/config-cpu"):
        verify(below / name)
    manifest = verify(below / "transformer/fp8-cpu")
    assert {"model.onnx", "model.onnx.data", graphs.TEXT_ONNX} <= set(manifest.files)
    assert manifest.accuracy["relative_error_fp8_modelopt"] <= 1e-3
    assert manifest.calibration is not None and manifest.calibration.prompts == 4
    assert [spec.name for spec in manifest.inputs][-1] == graphs.past_input(LAYERS - 1)

    code, output = export(tmp_path, *given, "--precision", "fp8")
    assert code == 0 and "already there" in output

    pytest.importorskip("tensorrt_rtx")
    code, output = export(tmp_path, *given, "--precision", "nvfp4", "--target", "sm121")
    assert code == 0 and "4 prompts (done before)" in output, output
    manifest = verify(below / "transformer/nvfp4-sm121")
    assert set(manifest.files) == {graphs.CHUNK_PLAN, graphs.TEXT_PLAN, "config.json"}
    assert manifest.accuracy["relative_error_nvfp4_emulation"] <= 1e-3
    (profile,) = manifest.profiles
    # 128 x 128 pixels are 6 x 8 x 8 tokens, with a key and a value in 16 bits each.
    assert profile.cache_bytes == 384 * 2 * 2 * LAYERS * CONFIG["num_query_groups"] * CONFIG["attention_head_dim"]
    assert profile.activation_bytes and profile.max[graphs.past_input(0)][0] == MOST_PAST * 384


def _official_fp8(layer: Fp8Linear) -> None:
    """Fill a layer as the official format has it."""
    weight = torch.randn(layer.out_features, layer.in_features) / layer.in_features**0.5
    layer.input_scale.data.fill_(0.02)
    if layer.smooth_scale is not None:
        layer.smooth_scale.data = 0.02 * (1 + torch.rand(1, layer.in_features))
        weight = weight * layer.smooth_scale.data / 0.02
    scale = weight.abs().amax() / 448
    layer.weight.data = (weight / scale).to(torch.float8_e4m3fn).view(torch.uint8)[None]
    layer.weight_scale.data.fill_(scale)


def test_an_official_fp8_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    pipeline = tiny_pipeline(distilled=True)
    network = tiny_transformer(distilled=True, caption_max_length=800, num_layers=3, fp8_layers=[1])
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, Fp8Linear):
            _official_fp8(layer)
    pipeline.register_modules(transformer=network)
    pipeline.save_pretrained(tmp_path / "checkpoint")
    variant = ("--variant", "4.5b-distill-fp8", "--checkpoint", str(tmp_path / "checkpoint"))
    code, output = export(tmp_path, *variant, "--precision", "fp8", "--target", "sm121", "--resolution", "256x256")
    assert code == 0, output
    manifest = verify(tmp_path / "artifacts/magi1/4.5b-distill-fp8/transformer/fp8-sm121")
    assert manifest.accuracy["block_cosine"] >= 0.999 and not manifest.random_weights
    assert any("the official fp8 checkpoint" in remark for remark in manifest.remarks)
    assert graphs.STEP_SIZE in [spec.name for spec in manifest.inputs]
    (profile,) = manifest.profiles
    assert profile.name == "256x256" and profile.cache_bytes and profile.activation_bytes


def test_a_rehearsal_of_the_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    tiny: dict[str, Any] = GATED | {"num_layers": 4}
    monkeypatch.setitem(TRANSFORMERS, "24b-base", tiny)
    options = ["--variant", "24b-base", "--precision", "nvfp4", "--target", "sm121", "--random-weights", "--layers", "2"]
    code, output = export(tmp_path, *options, "--resolution", "256x256")
    assert code == 0, output
    manifest = verify(tmp_path / "artifacts/magi1/24b-base/transformer/nvfp4-sm121-2layers")
    assert manifest.random_weights and any("first 2 of 4 blocks" in remark for remark in manifest.remarks)
    assert any("block by block" in remark for remark in manifest.remarks)
    assert any("compiled whole" in remark for remark in manifest.remarks)
    assert manifest.accuracy["block_cosine"] >= 0.99


def test_what_it_has_not_is_named(tmp_path: Path) -> None:
    for option in (("--fp8-attention",), ("--lora", "x.safetensors")):
        code, output = export(tmp_path, *option)
        assert code == 1 and f"{option[0]} is not for the transformer of magi1" in output
