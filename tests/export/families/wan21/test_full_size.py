"""The path of the published models: layers read as they run, blocks compared, stages resumed. On a tiny checkpoint."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from export.checkpoint import random_weights, reading
from export.checkpoint.source import Source
from export.families.wan21 import policy, streamed
from export.families.wan21.graph import write_graph
from export.families.wan21.pipeline import load_transformer
from export.families.wan21.recipe import NETWORK, shapes
from export.graph import weights
from export.graph.lowering import Build
from export.graph.tracing import Placeholder
from export.quantize.calibration import input_maxima
from export.quantize.linears import Dtypes
from tests.export import exports
from tests.families.wan21.tiny import TINY, random_transformer
from videosdgx.artifacts import FewStep, verify
from videosdgx.families.wan21.architectures import TRANSFORMERS
from videosdgx.families.wan21.spec import DEMO

SMALL = ["--resolution", "256x256", "--frames", "5"]


def export(home: Path, *options: str) -> tuple[int, str]:
    return exports.export("wan21", "--home", str(home), *options)


def source(tiny_checkpoint: Path, layers: int | None = None) -> Source:
    directory = tiny_checkpoint / "transformer"
    return Source(NETWORK, "tiny", directory, reading.config(directory), layers)


def test_a_streamed_transformer_equals_the_resident_one(tiny_checkpoint):
    resident = load_transformer(tiny_checkpoint / "transformer")
    inputs = {
        "hidden_states": torch.randn(1, 16, 2, 8, 8),
        "timestep": torch.tensor([700.0]),
        "encoder_hidden_states": torch.randn(1, 512, TINY["text_dim"]),
    }
    model = streamed.streamed_transformer(source(tiny_checkpoint))
    with torch.no_grad():
        assert torch.equal(model(**inputs).sample, resident(**inputs).sample)
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


def test_streamed_calibration_finds_the_maxima_of_the_resident_model(tiny_checkpoint):
    given = {"hidden_states": torch.randn(1, 16, 2, 8, 8), "timestep": torch.tensor([700.0])}
    given["encoder_hidden_states"] = torch.randn(1, 512, TINY["text_dim"])
    own = source(tiny_checkpoint)
    layers = policy.all_linears(own.config)
    found = []
    for model in (load_transformer(tiny_checkpoint / "transformer"), streamed.streamed_transformer(own)):
        with torch.no_grad():
            found.append(input_maxima(model, layers, lambda model=model: model(**given)))
    assert found[0] == found[1] and len(found[0]) == 20


@pytest.mark.parametrize(
    ("few_step", "times"),
    [
        (None, [999, 999, 900, 900, 750, 750, 500, 500]),  # both branches of guidance
        (FewStep(sampler="renoise", steps=4, shift=5.0), [1000, 937.5, 2500 / 3, 625]),
    ],
)
def test_a_streamed_calibration_follows_the_variants_sampler(tiny_checkpoint, few_step, times):
    model, seen = streamed.streamed_transformer(source(tiny_checkpoint)), []
    model.register_forward_pre_hook(lambda _, __, given: seen.append(float(given["timestep"][0])), with_kwargs=True)
    variant = DEMO.sampled(few_step)
    with torch.inference_mode():
        streamed.run_prompts(source(tiny_checkpoint), model, variant, ["a red circle", "a blue square"], lambda _: None)
    assert seen == pytest.approx(times, abs=1e-3)


def test_random_weights_depend_on_seed_and_name_only():
    one = random_weights.RandomTensors({"a.weight": (4, 8), "b.weight": (4, 8), "norm.weight": (64,)}, 0)
    again = random_weights.RandomTensors({"b.weight": (4, 8)}, 0)
    assert torch.equal(one["b.weight"], again["b.weight"])
    assert not torch.equal(one["a.weight"], one["b.weight"])
    assert not torch.equal(one["b.weight"], random_weights.draw("b.weight", (4, 8), 1))
    assert abs(float(one["norm.weight"].mean()) - 1) < 0.1


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("t2v-1.3b", 1_418_996_800), ("t2v-14b", 14_288_491_584), ("i2v-14b-480p", 16_394_878_784)],
)
def test_the_published_architectures_have_the_published_counts(variant, parameters):
    """Counts: docs/specs/wan21.md, section 1."""
    assert sum(int(np.prod(shape)) for shape in shapes(TRANSFORMERS[variant]).values()) == parameters


def test_weights_go_on_where_a_killed_export_stopped(tmp_path):
    placeholders = [Placeholder(f"{name}.bias", 1, (8,)) for name in "abc"]
    offsets, size = weights.layout(placeholders)
    tensors = {f"{name}.bias": torch.full((8,), float(number)) for number, name in enumerate("abc", 1)}

    def stopping():
        yield "a.bias", {"a.bias": tensors["a.bias"]}
        journal.flush(path.open("r+b"))
        yield "b.bias", {"b.bias": tensors["b.bias"]}
        raise KeyboardInterrupt

    path, journal = tmp_path / "data", weights.Journal(tmp_path / "journal")
    with pytest.raises(KeyboardInterrupt):
        weights.write(path, placeholders, offsets, size, stopping(), lambda _: None, journal)
    second = weights.Journal(tmp_path / "journal")
    assert second.done == {"a.bias"}
    rest = ((name, {name: tensors[name]}) for name in tensors if name not in second.done)
    weights.write(path, placeholders, offsets, size, rest, lambda _: None, second)
    whole = np.fromfile(path, "float32")
    assert [whole[offsets[f"{name}.bias"] // 4] for name in "abc"] == [1.0, 2.0, 3.0]


def _kill_the_compiler(options: list[str], home: Path) -> None:
    """Run an export until it compiles, and have the kernel end it there, its compiler with it."""
    command = [sys.executable, "-c", "from export.cli import export; import typer; typer.run(export)", "wan21", *options]
    process = subprocess.Popen([*command, "--home", str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((home / "work").rglob("engine-*.partial")):
        assert process.poll() is None, "the export ended before"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((home / "artifacts").rglob("transformer/*/manifest.json"))


@pytest.mark.slow
def test_a_checkpoint_of_a_published_variant_is_exported_block_by_block_and_goes_on_if_killed_while_it_compiles(
    sharded_checkpoint, tmp_path
):
    """Killed in the other stages: `tests/contract/test_killed_export.py`."""
    pytest.importorskip("tensorrt_rtx")
    options = ["--variant", "t2v-1.3b", "--target", "sm121", "--checkpoint", str(sharded_checkpoint), *SMALL]
    options += ["--precision", "fp8", "--resolution", "384x256"]
    _kill_the_compiler(options, tmp_path)
    code, output = export(tmp_path, *options)
    assert code == 0 and output.partition(" compile: ")[0].count("done before") == 3, output
    assert "peak memory" in output and "full-width blocks" in output and "the compiler took" in output
    directory = tmp_path / "artifacts/wan21/t2v-1.3b/transformer/fp8-sm121"
    manifest = verify(directory)
    assert manifest.accuracy["block_cosine"] >= 0.999 and not manifest.random_weights
    assert manifest.calibration is not None and manifest.calibration.prompts == streamed.PROMPTS
    assert [profile.name for profile in manifest.profiles] == ["256x256x5", "384x256x5"]
    small, large = (profile.activation_bytes for profile in manifest.profiles)
    assert small and large and manifest.memory and manifest.memory.activation_bytes == max(small, large)
    # Compiled again without being disturbed, it says the same. The compiler numbers its temporaries anew in each run, so
    # that plans of the same graph differ.
    for compiled in (directory, *(tmp_path / "work").rglob("engine-*")):
        shutil.rmtree(compiled)
    assert export(tmp_path, *options)[0] == 0
    undisturbed = verify(directory)
    assert manifest.model_copy(update={"files": {}}) == undisturbed.model_copy(update={"files": {}})
    assert manifest.files.keys() == undisturbed.files.keys() == {"config.json", "engine.plan"}
    assert manifest.files["config.json"] == undisturbed.files["config.json"]


@pytest.mark.parametrize("precision", ["bf16", "nvfp4"])
def test_shards_and_one_file_give_the_same_bytes(tiny_checkpoint, sharded_checkpoint, tmp_path, precision):
    assert len(list((sharded_checkpoint / "transformer").glob("*.safetensors"))) > 2
    written = []
    for checkpoint_dir in (tiny_checkpoint, sharded_checkpoint):
        own = source(checkpoint_dir)
        build = Build(policy.formats(own.config, precision), Dtypes(torch.bfloat16, torch.bfloat16))
        directory = tmp_path / checkpoint_dir.parent.name
        directory.mkdir()
        maxima = dict.fromkeys(policy.all_linears(own.config), 3.0)
        write_graph(directory, own, build, maxima, lambda _: None, lambda _: None)
        written.append({path.name: path.read_bytes() for path in directory.iterdir()})
    assert written[0] == written[1] and written[0].keys() == {"engine.onnx", "model.onnx.data"}


def test_a_rehearsal_says_so_and_lies_beside_the_real_one(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(TRANSFORMERS, "t2v-14b", _tiny_image_config())
    options = ["--variant", "t2v-14b", "--precision", "nvfp4", "--target", "sm121", "--random-weights", *SMALL]
    code, output = export(tmp_path, *options, "--layers", "2")
    assert code == 0, output
    manifest = verify(tmp_path / "artifacts/wan21/t2v-14b/transformer/nvfp4-sm121-2layers")
    assert manifest.random_weights and any("first 2 of 4 blocks" in remark for remark in manifest.remarks)
    assert any("block by block" in remark for remark in manifest.remarks)
    assert any("compiled whole" in remark for remark in manifest.remarks)
    assert [spec.name for spec in manifest.inputs][-1] == "encoder_hidden_states_image"
    assert manifest.profiles[0].max["encoder_hidden_states_image"] == [1, 257, 32]
    assert manifest.accuracy["block_cosine"] >= 0.99


def _tiny_image_config() -> dict:
    config = dict(random_transformer(image_dim=32, added_kv_proj_dim=48, in_channels=36, num_layers=4).config)
    return {name: value for name, value in config.items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "demo", "--random-weights"], "for the published variants"),
        (["--variant", "t2v-1.3b", "--layers", "31", "--random-weights"], "--layers is 31, t2v-1.3b has 30"),
        (["--variant", "t2v-1.3b", "--resolution", "832"], "must be WIDTHxHEIGHT"),
        (["--variant", "t2v-1.3b", "--resolution", "833x480"], "width is 833, it must be a multiple of 16"),
        (["--variant", "t2v-1.3b", "--frames", "80"], "frames is 80, it must be 4k+1"),
        (["--variant", "t2v-1.3b", "--precision", "bf16", "--target", "cpu"], "does not compute in bf16"),
        (["--variant", "t2v-1.3b", "--random-weights", "--checkpoint", "x"], "excludes --checkpoint"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, options, words):
    code, output = export(tmp_path, *options)
    assert code == 2 and words in output
