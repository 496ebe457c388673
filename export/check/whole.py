"""Calibrating and verifying a checkpoint that is small enough to make whole clips here: the demo of a family."""

import copy
import io
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from export.check.accuracy import clip_figures, relative_error, rounded, snr_db, write_figures
from export.check.probe import LayerProbe
from export.graph.writing import GraphFiles
from export.quantize.calibration import input_maxima, simulate_fp8
from export.quantize.emulation import simulate_fp8_attention, simulate_nvfp4
from export.quantize.linears import Format
from export.run.job import Job, note
from export.run.recipe import Advance, FixedCall, WholeClips
from export.run.stages import digest
from export.run.versions import versions
from videosdgx.artifacts import Manifest
from videosdgx.engines.onnxruntime_engine import session_options

CLIPS_TO_JUDGE_SUCCESS = 50  # a rate over fewer says nothing
_CLIPS, _CALLS = "clips.npy", "calls.npz"
_FIGURES = {"fp8": "relative_error_fp8_modelopt", "nvfp4": "relative_error_nvfp4_emulation"}


def _way(job: Job) -> WholeClips:
    assert job.recipe.whole is not None
    return job.recipe.whole


def _load(job: Job) -> object:
    assert job.checkpoint is not None
    return _way(job).load(job.checkpoint, job.variant, job.source.tensors)


# Calibrating ---------------------------------------------------------------------------------------------------------


def calibrate(job: Job) -> dict[str, float]:
    """Largest absolute input of each quantized layer, from runs of the real pipeline."""
    if not job.wanted_maxima:
        return {}
    prompts, layers = job.calibration_prompts, [*job.linears, *job.attentions]
    facts = {"revision": job.recipe.revision, "checkpoint": job.digests, "prompts": prompts, "layers": layers}
    with job.report.step("calibrate", len(prompts)) as step:

        def build(directory: Path) -> None:
            maxima = collect(job, prompts, step.advance)
            (directory / "maxima.json").write_text(json.dumps(maxima, indent=1))

        directory, known = job.workshop.stage("calibration", facts, build)
        step.note(note(f"{len(prompts)} prompts", known))
    maxima: dict[str, float] = json.loads((directory / "maxima.json").read_bytes())
    return {name: maxima[name] for name in job.wanted_maxima}


def collect(job: Job, prompts: list[str], advance: Advance) -> dict[str, float]:
    """Largest absolute input of every layer that some precision quantizes, while the pipeline makes a clip of each prompt."""
    pipe = _load(job)

    def run() -> None:
        _way(job).make_clips(pipe, prompts, job.variant, advance)

    return input_maxima(pipe.transformer, job.linears, run, job.attentions)  # type: ignore[attr-defined]


# The unquantized model -----------------------------------------------------------------------------------------------


def as_stored(way: WholeClips, model: nn.Module, quantized: Collection[str] = ()) -> nn.Module:
    """A copy whose matrices are rounded to fp16 where engines store them so; the layers named in `quantized` are not.

    Those are quantized from the checkpoint's own values.
    """
    rounded_copy = copy.deepcopy(model)
    for name, layer in rounded_copy.named_modules():
        if name not in quantized and way.in_half(name, layer):
            layer.weight.data = layer.weight.data.half().float()
    return rounded_copy


def simulated(
    way: WholeClips,
    model: nn.Module,
    formats: Mapping[str, Format],
    maxima: Mapping[str, float],
    fp8_attention: Iterable[str] = (),
) -> nn.Module:
    """A copy of the checkpoint's `model` that computes as an engine should.

    Its linear layers are ModelOpt's FP8, and NVFP4 in plain torch; the attentions named are FP8 in plain torch.
    """
    copied = as_stored(way, model, formats)
    for layer_format, simulate in (("fp8", simulate_fp8), ("nvfp4", simulate_nvfp4)):
        layers = {name: maxima[name] for name, own in formats.items() if own == layer_format}
        if layers:
            simulate(copied, layers)
    simulate_fp8_attention(copied, {f"{name}.{part}": maxima[f"{name}.{part}"] for name in fp8_attention for part in "qkv"})
    return copied


def _reference_facts(job: Job) -> dict[str, object]:
    """What the unquantized pipeline's clips and calls are made from."""
    return {
        "revision": job.recipe.revision,
        "checkpoint": job.digests,
        "prompts": _way(job).verification_prompts(job.settings.variant, job.settings.clips),
        "versions": versions("torch", "diffusers", "transformers"),
        "format": 2,
    }


def write_reference(directory: Path, job: Job, prompts: list[str], advance: Advance) -> None:
    """Write the clips of the unquantized pipeline, its matrices rounded as engines store them, and some calls of the first."""
    way, pipe = _way(job), _load(job)
    pipe.register_modules(transformer=as_stored(way, pipe.transformer))  # type: ignore[attr-defined]
    calls, clips = way.fixed_calls(pipe, prompts[:1], job.variant)
    if len(prompts) > 1:
        clips = way.make_clips(pipe, prompts, job.variant, advance)
    # By way of memory: given a path, np.save says of a full disk only that less was written than it asked for.
    kept = io.BytesIO()
    np.save(kept, clips)
    (directory / _CLIPS).write_bytes(kept.getbuffer())
    write_calls(directory, calls)


def write_calls(directory: Path, calls: Iterable[FixedCall]) -> None:
    """Keep calls in a directory, for `read_calls`."""
    arrays: dict[str, np.ndarray] = {}
    for call in calls:
        arrays |= {f"{call.figure}/{call.files.model}/{name}": array for name, array in call.inputs.items()}
        arrays[f"{call.figure}/{call.files.model}/"] = call.output
    np.savez(directory / _CALLS, **arrays)


def read_calls(directory: Path, graphs: Iterable[GraphFiles]) -> list[FixedCall]:
    """The calls that `write_calls` kept; `graphs` are those that they may be of."""
    by_model = {files.model: files for files in graphs}
    with np.load(directory / _CALLS) as arrays:
        every = {tuple(name.split("/")): arrays[name] for name in arrays.files}
    calls = []
    for (figure, model, name), output in every.items():
        if not name:
            inputs = {key[2]: array for key, array in every.items() if key[:2] == (figure, model) and key[2]}
            calls.append(FixedCall(figure, by_model[model], inputs, output))
    return calls


# The exported graphs -------------------------------------------------------------------------------------------------


def verify(job: Job, graph: Path, manifest: Manifest, maxima: Mapping[str, float]) -> dict[str, float]:
    """Accuracy of the graphs in the folder `graph` on ONNX Runtime against the unquantized pipeline.

    Raises:
        ExportError: a figure is beyond the family's bar.
    """
    prompts = _way(job).verification_prompts(job.settings.variant, job.settings.clips)
    with job.report.step("verify", 2 * len(prompts) + 1) as step:

        def build_reference(directory: Path) -> None:
            write_reference(directory, job, prompts, step.advance)

        def build(directory: Path) -> None:
            pipe, calls = _load(job), read_calls(reference, [engine.files for engine in job.recipe.engines(job)])
            figures = fixed_snr(graph, calls, job.threads)
            model = pipe.transformer  # type: ignore[attr-defined]
            figures |= against_simulation(_way(job), graph, model, job.formats, maxima, calls, job.fp8_attention)
            step.advance()
            figures |= compare_clips(job, graph, manifest, pipe, prompts, np.load(reference / _CLIPS), step.advance)
            write_figures(directory / "accuracy.json", figures)

        reference, _ = job.workshop.stage("reference", _reference_facts(job), build_reference)
        facts = {
            "reference": reference.name,
            "graph": graph.name,
            "versions": versions("onnxruntime", "modelopt", "diffusers", "torch"),
        }
        directory, known = job.workshop.stage("accuracy", facts, build)
        accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
        step.note(note(f"{len(prompts)} clips, PSNR {accuracy['clip_psnr_db_mean']:.1f} dB", known))
    job.require(accuracy)
    return accuracy


def verify_half(job: Job, graph: Path) -> dict[str, float]:
    """Outputs of the graphs that are compiled (they compute in fp16), on ONNX Runtime, for the fixed calls."""
    with job.report.step("verify fp16") as step:
        reference = job.workshop.root / f"reference-{digest(_reference_facts(job))[:16]}"
        calls = read_calls(reference, [engine.files for engine in job.recipe.engines(job)])
        figures = fixed_snr(graph, calls, job.threads)
        step.note(", ".join(f"{value:.1f}" for value in figures.values()) + " dB")
    return rounded({name.replace("_snr", "_fp16_snr"): value for name, value in figures.items()})


def fixed_snr(graph: Path, calls: Iterable[FixedCall], threads: int) -> dict[str, float]:
    """Signal-to-noise ratio in dB of the graphs' first output for each of the fixed calls."""
    figures: dict[str, float] = {}
    sessions: dict[GraphFiles, ort.InferenceSession] = {}
    for call in calls:
        if call.files not in sessions:
            path = graph / call.files.model
            sessions[call.files] = ort.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])
        session = sessions[call.files]
        halves = {one.name for one in session.get_inputs() if one.type == "tensor(float16)"}
        given = {name: array.astype(np.float16) if name in halves else array for name, array in call.inputs.items()}
        (made,) = session.run([session.get_outputs()[0].name], given)
        figures[call.figure] = snr_db(np.asarray(made, dtype=np.float32), call.output)
    return figures


@torch.inference_mode()
def against_simulation(
    way: WholeClips,
    graph: Path,
    model: nn.Module,
    formats: Mapping[str, Format],
    maxima: Mapping[str, float],
    calls: list[FixedCall],
    fp8_attention: Iterable[str] = (),
) -> dict[str, float]:
    """The graphs' relative error against ModelOpt's FP8 and the plain-torch NVFP4, for the fixed calls.

    The bar is on the worst layer of each format, every layer being given the input that it has in the graph. Over the
    whole network the error says less: a last-bit difference now and then flips a rounding, and every later rounding
    amplifies it towards the size of the quantization error itself, in any two implementations. It is recorded all the
    same, as the median over the calls of the main graph, which is that of the first call.

    `model` is the checkpoint's transformer; `formats` and `maxima` have every quantized layer by its name.
    """
    if not formats:
        return {}
    expected = simulated(way, model, formats, maxima, fp8_attention)
    worst = {layer_format: 0.0 for layer_format in sorted(set(formats.values()))}
    whole: list[float] = []
    main = calls[0].files
    for files in dict.fromkeys(call.files for call in calls):
        probe = LayerProbe(graph, formats, files)
        for call in (call for call in calls if call.files == files):
            output, layers = probe.run(call.inputs)
            for name, (given, result) in layers.items():
                error = relative_error(result, expected.get_submodule(name)(torch.from_numpy(given)).numpy())
                worst[formats[name]] = max(worst[formats[name]], error)
            if files == main:
                whole.append(relative_error(output, way.forward(expected, call.inputs).numpy()))
    layerwise = {_FIGURES[layer_format]: error for layer_format, error in worst.items()}
    return layerwise | {"relative_error_simulation_whole": float(np.median(whole))}


def compare_clips(
    job: Job, graph: Path, manifest: Manifest, pipe: object, prompts: list[str], wanted: np.ndarray, advance: Advance
) -> dict[str, float]:
    """PSNR of the graphs' clips, run as serving runs them, against the `wanted` ones; with many, how often they are right."""
    way = _way(job)
    with way.by_engine(pipe, graph, manifest, job.threads):
        made = way.make_clips(pipe, prompts, job.variant, advance)
    figures = clip_figures(made, wanted)
    if way.success is not None and len(prompts) >= CLIPS_TO_JUDGE_SUCCESS:
        figures |= {"success_percent": way.success(made, prompts), "success_percent_fp16": way.success(wanted, prompts)}
        figures["success_points_lost"] = figures["success_percent_fp16"] - figures["success_percent"]
    return figures
