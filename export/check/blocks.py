"""Calibrating and verifying a checkpoint that is too large to hold: layers are read as they run, single blocks compared."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.check.accuracy import cosine, snr_db, write_figures
from export.check.block import run_block
from export.quantize.attention import attention_scales
from export.quantize.calibration import input_maxima
from export.run.job import CPU_DTYPES, Job, note
from export.run.recipe import Advance, Arrays, Blocks
from export.run.stages import digest
from export.run.versions import versions

_MAXIMA, _INPUTS = "maxima.json", "blocks.npz"
Given = dict[int, Arrays]  # what some blocks were given, by their index


def _way(job: Job) -> Blocks:
    assert job.recipe.blocks is not None
    return job.recipe.blocks


# Calibrating ---------------------------------------------------------------------------------------------------------


def calibrate(job: Job) -> tuple[dict[str, float], Path]:
    """Largest absolute input of each quantized layer; and the directory where they are kept, with the inputs of some blocks."""
    way, prompts = _way(job), job.calibration_prompts
    calibrated = [*job.linears, *job.attentions]
    facts = {"revision": job.recipe.revision, "checkpoint": job.digests, "prompts": prompts, "layers": calibrated, "format": 2}
    with job.report.step("calibrate", 1 if job.source.random else way.ticks) as step:

        def build(directory: Path) -> None:
            maxima, seen = collect_on_noise(job) if job.source.random else collect_on_prompts(job, step.advance)
            (directory / _MAXIMA).write_text(json.dumps(maxima, indent=1))
            arrays = {f"{index}.{name}": array for index, one in seen.items() for name, array in one.items()}
            np.savez(directory / _INPUTS, **arrays)

        directory, known = job.workshop.stage("calibration", facts, build)
        step.note(note(f"{len(prompts)} prompts, {way.steps} steps" if prompts else "seeded noise", known))
    maxima: dict[str, float] = json.loads((directory / _MAXIMA).read_bytes())
    maxima |= way.known_maxima(job.source)
    return {name: maxima[name] for name in job.wanted_maxima}, directory


@torch.inference_mode()
def collect_on_prompts(job: Job, advance: Advance) -> tuple[dict[str, float], Given]:
    """Input maxima of every layer and attention, and what some blocks were given, in small, short runs of the pipeline."""
    way, source = _way(job), job.source
    model = way.streamed(source)
    seen: Given = {}

    def run() -> None:
        way.run_prompts(source, model, job.variant, job.calibration_prompts, advance)

    with recorded(way, model, way.checked(source.num_layers), seen):
        maxima = input_maxima(model, job.linears, run, job.attentions)
    return maxima, seen


@torch.inference_mode()
def collect_on_noise(job: Job) -> tuple[dict[str, float], Given]:
    """The same for random weights, whose blocks are all alike: a few run, on seeded noise, and stand for all."""
    way, source, policy = _way(job), job.source, job.recipe.policy
    last = source.num_layers - 1
    few = replace(source, layers=min(source.num_layers, way.random_blocks))

    def stand_in(index: int) -> int:
        return few.num_layers - 1 if index == last else min(index, 1, few.num_layers - 1)

    def renamed(name: str) -> str:
        """The layer of a block that runs, which stands for the layer `name`."""
        index = source.network.block_index(name)
        if index is None:
            return name
        own = source.network.block.format(index)
        return source.network.block.format(stand_in(index)) + name.removeprefix(own)

    model = way.streamed(few)
    seen: Given = {}
    attentions = sorted({renamed(name) for name in job.attentions})
    with recorded(way, model, range(few.num_layers), seen):
        maxima = input_maxima(model, policy.linears(few.config), lambda: way.run_noise(few, model), attentions)
    every = [*job.linears, *(f"{name}.{part}" for name in job.attentions for part in "qkv")]
    return (
        {name: maxima[renamed(name)] for name in every},
        {index: seen[stand_in(index)] for index in way.checked(source.num_layers)},
    )


@contextmanager
def recorded(way: Blocks, model: nn.Module, indices: range | list[int], seen: Given) -> Iterator[None]:
    """While open, keep in `seen` what the blocks `indices` are given at the first call that is one to keep."""

    def hook(index: int) -> Callable[..., None]:
        def record(_: nn.Module, arguments: tuple[object, ...]) -> None:
            given = way.given(arguments) if index not in seen else None
            if given is not None:
                seen[index] = {name: part.float().numpy().copy() for name, part in given.items()}

        return record

    layers = way.layers(model)
    handles = [layers[index].register_forward_pre_hook(hook(index)) for index in indices]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# Verifying -----------------------------------------------------------------------------------------------------------


def _block_inputs(directory: Path) -> Given:
    given: Given = {}
    with np.load(directory / _INPUTS) as arrays:
        for name in arrays.files:
            index, part = name.split(".", 1)
            given.setdefault(int(index), {})[part] = arrays[name]
    return given


def verify(job: Job, maxima: Mapping[str, float], calibration: Path) -> dict[str, float]:
    """Accuracy of some full-width blocks on ONNX Runtime against the model's with the same weights.

    Raises:
        ExportError: a figure is beyond the family's bar.
    """
    facts = {
        "revision": job.recipe.revision,
        "calibration": calibration.name,
        "formats": digest({"formats": job.formats, "fp8_attention": job.fp8_attention}),
        "versions": versions("onnxruntime", "diffusers", "torch", "onnx", "onnxscript"),
    }

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            figures = compare(job, _block_inputs(calibration), maxima, Path(scratch))
        write_figures(directory / "accuracy.json", figures)

    with job.report.step("verify") as step:
        directory, known = job.workshop.stage("blocks", facts, build)
        accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
        blocks, cosine_of_all = accuracy["blocks_checked"], accuracy["block_cosine"]
        change = accuracy["block_change_snr_db"]
        step.note(note(f"{blocks:.0f} full-width blocks, cosine {cosine_of_all:.5f}, change {change:.1f} dB", known))
    job.require(accuracy)
    return accuracy


def compare(job: Job, given: Given, maxima: Mapping[str, float], scratch: Path) -> dict[str, float]:
    """Cosine and signal-to-noise ratio of the blocks in `given` on ONNX Runtime against the model's with the same weights.

    They are made in fp32, as ONNX Runtime computes on a CPU. `block_cosine` is the worst of their outputs'. What a block adds
    to its input is a stricter measure, as the input passes unchanged: `block_change_snr_db` is the worst of those.
    """
    cosines, changes = [], []
    for index, inputs in given.items():
        expected, made = _expected(job, index, inputs), _made(job, index, inputs, maxima, scratch)
        cosines.append(cosine(made, expected))
        changes.append(snr_db(made - inputs["x"], expected - inputs["x"]))
    return {"block_cosine": min(cosines), "block_change_snr_db": min(changes), "blocks_checked": float(len(given))}


@torch.inference_mode()
def _expected(job: Job, index: int, inputs: Arrays) -> np.ndarray:
    """What the model's own block `index` makes of `inputs`, in fp32."""
    way, source = _way(job), job.source
    with torch.device("meta"):
        block = way.block(source.config).eval()
    prefix = source.network.block.format(index) + "."
    own = {name.removeprefix(prefix): source.tensors[name].float() for name in source.tensors if name.startswith(prefix)}
    block.load_state_dict(own, assign=True)
    result: np.ndarray = way.run_block(block, {name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()
    return result


def _made(job: Job, index: int, inputs: Arrays, maxima: Mapping[str, float], scratch: Path) -> np.ndarray:
    """What the exported block `index` makes of `inputs`, on ONNX Runtime."""
    source, build = job.source, job.build(CPU_DTYPES)
    prefix = source.network.block.format(index) + "."
    attentions = [name for name in build.fp8_attention if name.startswith(prefix)]
    scales = attention_scales(attentions, source.config.attention_head_dim, maxima)
    piece = _way(job).piece(source.config, build, index)
    return run_block(piece, prefix, source.tensors, inputs, build, maxima, scratch, scales.items())
