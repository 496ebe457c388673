"""The command from checkpoint to artifacts, on a tiny checkpoint: whole, repeated, stopped, and with bad input."""

import errno
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.check import whole
from export.families.wan21 import policy
from export.families.wan21.lowered import WanConfig
from export.families.wan21.pipeline import load_transformer
from export.run import exporter
from tests.export import exports
from tests.families.wan21.tiny import random_inputs
from videosdgx import memory
from videosdgx.artifacts import FewStep, verify
from videosdgx.engines.engine import open_engine


def export(home: Path, checkpoint: Path | None, *options: str) -> tuple[int, str]:
    given = ["--checkpoint", str(checkpoint)] if checkpoint else []
    return exports.export("wan21", "--home", str(home), *given, "--clips", "1", *options)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    """A home with an FP8 export for the CPU, and what the command said."""
    home = tmp_path_factory.mktemp("home")
    code, output = export(home, tiny_checkpoint)
    assert code == 0, output
    return home, output


def test_writes_four_artifacts_that_serving_accepts(exported):
    home, _ = exported
    below = home / "artifacts" / "wan21" / "demo"
    for name in ("transformer/fp8-cpu", "text_encoder/fp32-cpu", "vae/fp32-cpu", "pipeline/config-cpu"):
        verify(below / name)
    manifest = verify(below / "transformer" / "fp8-cpu")
    assert manifest.calibration is not None and manifest.calibration.prompts == 12
    assert manifest.memory is not None and manifest.memory.weights_bytes > 0
    assert {"modelopt", "onnx", "onnxruntime", "torch"} <= manifest.versions.keys()
    assert manifest.accuracy["relative_error_fp8_modelopt"] <= 1e-3
    assert manifest.accuracy["clip_psnr_db_mean"] >= 36
    engine = open_engine(below / "transformer" / "fp8-cpu", threads=1)
    with pytest.raises(ValueError, match=r"hidden_states has shape \[1, 3\]"):
        engine.run({spec.name: np.zeros((1, 3), "float32") for spec in manifest.inputs})
    engine.close()


def test_a_second_export_finds_it_done(exported, tiny_checkpoint):
    home, _ = exported
    code, output = export(home, tiny_checkpoint)
    assert code == 0 and "already there" in output and "calibrate" not in output


def test_two_exports_give_the_same_bytes(exported, tiny_checkpoint, tmp_path):
    home, _ = exported
    code, output = export(tmp_path, tiny_checkpoint)
    assert code == 0, output
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in sorted((root / "artifacts").rglob("*")) if path.is_file()}
        for root in (home, tmp_path)
    )
    assert first == second


def test_compiles_nvfp4_for_the_spark(exported, tiny_checkpoint, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    home, _ = exported
    shutil.copytree(home / "work", tmp_path / "work")
    code, output = export(tmp_path, tiny_checkpoint, "--precision", "nvfp4", "--target", "sm121")
    assert code == 0, output
    manifest = verify(tmp_path / "artifacts/wan21/demo/transformer/nvfp4-sm121")
    assert set(manifest.files) == {"engine.plan", "config.json"} and manifest.runtime == "tensorrt_rtx"
    assert manifest.memory is not None and "printed by tensorrt_rtx" in manifest.memory.source
    assert manifest.accuracy["relative_error_nvfp4_emulation"] <= 1e-3
    assert manifest.profiles[0].max["hidden_states"] == [2, 16, 5, 16, 16]
    assert verify(tmp_path / "artifacts/wan21/demo/text_encoder/bf16-sm121").precision == "bf16"


def test_too_little_memory_for_the_compiler_is_told_before_it_starts(exported, tiny_checkpoint, tmp_path, monkeypatch):
    home, _ = exported
    shutil.copytree(home / "work", tmp_path / "work")
    monkeypatch.setattr(memory, "available", lambda: 1000)
    code, output = export(tmp_path, tiny_checkpoint, "--target", "sm121")
    assert code == 1 and "GB of memory" in output and "--layers" in output
    kept = Path(output.partition("is kept in ")[2].strip())
    assert (kept / "model.onnx.data").is_file()
    assert not (tmp_path / "artifacts/wan21/demo/transformer").exists()


def test_attention_in_fp8_is_an_option(exported, tiny_checkpoint, tmp_path):
    home, _ = exported
    shutil.copytree(home / "work", tmp_path / "work")
    code, output = export(tmp_path, tiny_checkpoint, "--fp8-attention")
    assert code == 0 and "12 prompts (done before)" in output, output
    manifest = verify(tmp_path / "artifacts/wan21/demo/transformer/fp8-cpu")
    plain = verify(home / "artifacts/wan21/demo/transformer/fp8-cpu")
    assert manifest.policy["attn1"] == "fp8 in 1 blocks: query, key, value and probabilities"
    assert "attn1" not in plain.policy and manifest.recipe != plain.recipe
    # It is another graph, as the simulation says: within rounding, the graph still computes what was asked for.
    assert manifest.files["model.onnx.data"] != plain.files["model.onnx.data"]
    assert manifest.accuracy["relative_error_fp8_modelopt"] <= 1e-3
    assert manifest.accuracy["clip_psnr_db_mean"] < plain.accuracy["clip_psnr_db_mean"]


def test_goes_on_after_being_stopped(exported, tiny_checkpoint, tmp_path, monkeypatch):
    home, _ = exported
    shutil.copytree(home / "work", tmp_path / "work", ignore=shutil.ignore_patterns("accuracy-*"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(whole, "compare_clips", stop)
        code, output = export(tmp_path, tiny_checkpoint)
    assert code == 130 and "stopped" in output
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / "artifacts/wan21/demo/transformer").exists()
    code, output = export(tmp_path, tiny_checkpoint)
    assert code == 0
    before, after = output.split(" verify: ", 1)
    assert before.count("done before") == 2 and "done before" not in after.split("dB")[0]


def test_below_the_bar_fails_with_the_figures(exported, tiny_checkpoint, tmp_path, monkeypatch):
    home, _ = exported
    shutil.copytree(home / "work", tmp_path / "work")
    monkeypatch.setitem(policy._CLIP_BARS, "fp8", 99.0)
    code, output = export(tmp_path, tiny_checkpoint)
    assert code == 1 and "clip_psnr_db_mean is" in output and "at least 99 is required" in output
    assert not (tmp_path / "artifacts/wan21/demo/transformer").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int3"], "unknown precision 'int3'; there are: fp16, bf16, fp8, nvfp4"),
        (["--variant", "t2v-99b"], "unknown variant 't2v-99b' of wan21; there are: demo, t2v-1.3b, t2v-14b"),
        (
            ["--variant", "i2v-14b-480p"],
            "variant 'i2v-14b-480p' of wan21 cannot be used yet: image to video needs an image encoder",
        ),
        (["--target", "sm90"], "unknown target 'sm90'; there are: cpu, sm121"),
        (["--few-step", "4"], "--few-step is for weights that were distilled to few steps: give them with --lora"),
        (["--few-step", "0"], "Invalid value for '--few-step'"),
        (["--few-step", "4", "--lora", "x", "--sampler", "ddim"], "unknown sampler 'ddim'; there are: renoise, euler"),
        (["--sampler", "euler"], "give --few-step too"),
        (["--component", "vae", "--target", "sm121", "--lora", "x", "--few-step", "4"], "is of the transformer, not of"),
        (["--component", "text_encoder"], "unknown component 'text_encoder'; there are: transformer, vae"),
        (["--component", "vae"], "--component vae is for --target sm121"),
        (["--component", "vae", "--target", "sm121", "--precision", "fp8"], "takes --precision fp16 or bf16, not fp8"),
        (["--component", "vae", "--target", "sm121", "--fp8-attention"], "--fp8-attention is of the transformer"),
        (["--component", "vae", "--target", "sm121", "--random-weights"], "are for the published variants"),
    ],
)
def test_mistyped_options_are_named(tmp_path, options, message):
    code, output = export(tmp_path, None, *options)
    assert code == 2 and message in output


def broken(tiny_checkpoint: Path, tmp_path: Path) -> tuple[Path, Path]:
    copy = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, copy)
    return copy, copy / "transformer" / "diffusion_pytorch_model.safetensors"


def test_missing_checkpoint(tmp_path):
    code, output = export(tmp_path, tmp_path / "nowhere")
    assert code == 1 and "no checkpoint at" in output and "--checkpoint" in output


def test_truncated_weights(tiny_checkpoint, tmp_path):
    copy, weights = broken(tiny_checkpoint, tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    code, output = export(tmp_path / "home", copy)
    assert code == 1 and "its header says" in output and "download it again" in output


def test_weights_that_are_not_safetensors(tiny_checkpoint, tmp_path):
    copy, weights = broken(tiny_checkpoint, tmp_path)
    weights.write_bytes(b"<html>not found</html>" * 10)
    code, output = export(tmp_path / "home", copy)
    assert code == 1 and "is not a safetensors file" in output


def test_pickled_weights_are_refused(tiny_checkpoint, tmp_path):
    copy, weights = broken(tiny_checkpoint, tmp_path)
    weights.rename(weights.with_suffix(".bin"))
    code, output = export(tmp_path / "home", copy)
    assert code == 1 and "only pickled weights" in output


def test_full_disk(tiny_checkpoint, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter, "export_pipeline", full)
    code, output = export(tmp_path, tiny_checkpoint)
    assert code == 1 and "is full" in output and "--home" in output


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [300, 900, 1200, 2400])
def test_a_disk_that_fills_up_leaves_no_half_artifact(exported, tiny_checkpoint, tmp_path, kilobytes):
    """On a real small disk, too small by more and less, in whichever stage it fills up."""
    home, _ = exported
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        code, output = export(disk, tiny_checkpoint)
        if code:
            assert "make room" in output and "--home" in output
        for manifest in (disk / "artifacts").rglob("manifest.json"):
            verify(manifest.parent)
        assert code == 0 or not list((disk / "artifacts").rglob("transformer/*/manifest.json"))
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        assert export(disk, tiny_checkpoint)[0] == 0
        name = "artifacts/wan21/demo/transformer/fp8-cpu/manifest.json"
        assert (disk / name).read_bytes() == (home / name).read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_teaches():
    _, output = exports.export("--help")
    assert "Examples" in output and "--precision nvfp4" in output and "--clips" in output


def style(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A LoRA for one layer, and its two matrices."""
    torch.manual_seed(0)
    factors = {"lora_A": torch.randn(4, 48) / 7, "lora_B": torch.randn(48, 4) / 2}
    save_file({f"transformer.blocks.0.attn1.to_q.{name}.weight": value for name, value in factors.items()}, path)
    return path, factors


def test_a_lora_is_fused_before_anything_else(tiny_checkpoint, tmp_path):
    file, factors = style(tmp_path / "style.safetensors")
    code, output = export(tmp_path / "home", tiny_checkpoint, "--lora", f"{file}:0.5", "--precision", "fp16")
    assert code == 0, output
    manifest = verify(tmp_path / "home/artifacts/wan21/demo/transformer/fp16-cpu")
    assert [(one.name, one.scale, one.layers) for one in manifest.loras] == [("style.safetensors", 0.5, 1)]
    engine = open_engine(tmp_path / "home/artifacts/wan21/demo/transformer/fp16-cpu", threads=1)
    model = load_transformer(tiny_checkpoint / "transformer")
    inputs = random_inputs(WanConfig.from_dict(dict(model.config)))
    plain = model(**inputs).sample
    model.blocks[0].attn1.to_q.weight.data += 0.5 * factors["lora_B"] @ factors["lora_A"]
    expected = model(**inputs).sample
    result = torch.from_numpy(engine.run({name: value.numpy() for name, value in inputs.items()})["sample"])
    assert (result - expected).norm() < 0.01 * expected.norm()
    assert (plain - expected).norm() > 5 * (result - expected).norm()


def test_few_steps_are_exported_verified_and_told(tiny_checkpoint, tmp_path):
    home, given = tmp_path / "home", ("--lora", str(style(tmp_path / "four.safetensors")[0]), "--precision", "fp8")
    directory = home / "artifacts/wan21/demo/transformer/fp8-cpu"
    code, output = export(home, tiny_checkpoint, *given, "--few-step", "4")
    assert code == 0, output
    few = verify(directory)
    assert few.few_step == FewStep(sampler="renoise", steps=4, shift=5.0, guidance_scale=1.0)
    assert few.calibration is not None and few.calibration.steps == 4
    figures = {name.removeprefix("velocity_snr_db_sigma_") for name in few.accuracy if name.startswith("velocity_snr")}
    assert figures == {"1", "0.9375", "0.8333", "0.625"}
    assert export(home, tiny_checkpoint, *given, "--few-step", "4")[1].count("already there") == 1
    # Another sampler, and none of it, are other artifacts: nothing that was calibrated or compared before stands for them.
    recipes = {few.recipe}
    for options in (["--few-step", "4", "--sampler", "euler"], []):
        code, output = export(home, tiny_checkpoint, *given, *options)
        assert code == 0 and "12 prompts (done before)" not in output, output
        manifest = verify(directory)
        recipes.add(manifest.recipe)
    assert len(recipes) == 3 and manifest.few_step is None and "velocity_snr_db_sigma_0.25" in manifest.accuracy


def test_few_steps_are_for_families_that_have_such_weights(tmp_path):
    code, output = exports.export("magi1", "--home", str(tmp_path), "--few-step", "4", "--checkpoint", str(tmp_path))
    assert code == 1 and "--few-step is not for the transformer of magi1" in output
