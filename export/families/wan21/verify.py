"""Wan 2.1's accuracy: fixed tensors and whole clips of the unquantized pipeline, and an engine's distance from them."""

import copy
import io
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import nn

from export.check.accuracy import clip_figures, relative_error, snr_db
from export.check.probe import LayerProbe
from export.demo import world
from export.demo.judge import success
from export.families.wan21.pipeline import make_clips, recorded
from export.families.wan21.policy import CLIPS_TO_JUDGE_SUCCESS
from export.quantize.calibration import simulate_fp8
from export.quantize.emulation import simulate_fp8_attention, simulate_nvfp4
from export.quantize.linears import Format
from videosdgx.engines.engine import Engine
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.pipeline import RemoteTransformer

SIGMAS = (0.95, 0.75, 0.5, 0.25)
_CLIPS, _VELOCITIES = "clips.npy", "velocities.npz"


def as_stored(model: WanTransformer3DModel, quantized: Collection[str] = ()) -> WanTransformer3DModel:
    """A copy whose matrices are rounded to fp16 where engines store them so; the layers named in `quantized` are not.

    Those are quantized from the checkpoint's own values.
    """
    rounded = copy.deepcopy(model)
    for name, layer in rounded.named_modules():
        is_matrix = isinstance(layer, nn.Linear | nn.Conv3d)
        if is_matrix and name not in quantized and "time_embedder" not in name:
            layer.weight.data = layer.weight.data.half().float()
    return rounded


def reference(
    directory: Path, pipe: WanPipeline, prompts: list[str], variant: Variant, advance: Callable[[float], None]
) -> None:
    """Write the clips of `pipe`, and its velocities at `SIGMAS` on the inputs of the first clip, into `directory`."""
    calls: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    with recorded(pipe.transformer, calls):
        first = make_clips(pipe, prompts[:1], variant, lambda _: None)
    # By way of memory: given a path, np.save says of a full disk only that less was written than it asked for.
    kept = io.BytesIO()
    np.save(kept, make_clips(pipe, prompts, variant, advance) if len(prompts) > 1 else first)
    (directory / _CLIPS).write_bytes(kept.getbuffer())
    arrays: dict[str, np.ndarray] = {}
    for index, sigma in enumerate(SIGMAS):
        inputs, velocity = min(calls, key=lambda call: abs(float(call[0]["timestep"][0]) - 1000 * sigma))
        arrays |= {f"{index}.{name}": array for name, array in inputs.items()} | {f"{index}.sample": velocity}
    np.savez(directory / _VELOCITIES, **arrays)


def fixed_tensors(directory: Path) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """(inputs, velocity of the unquantized transformer) for each of `SIGMAS`."""
    with np.load(directory / _VELOCITIES) as arrays:
        every = {name: arrays[name] for name in arrays.files}
    result = []
    for index in range(len(SIGMAS)):
        part = {name.split(".", 1)[1]: array for name, array in every.items() if name.startswith(f"{index}.")}
        velocity = part.pop("sample")
        result.append((part, velocity))
    return result


def velocity_snr(engine: Engine, directory: Path) -> dict[str, float]:
    """Signal-to-noise ratio in dB of the engine's velocity at each of `SIGMAS`."""
    pairs = zip(SIGMAS, fixed_tensors(directory), strict=True)
    return {
        f"velocity_snr_db_sigma_{sigma:g}": snr_db(engine.run(inputs)["sample"], velocity)
        for sigma, (inputs, velocity) in pairs
    }


def simulated(
    model: WanTransformer3DModel,
    formats: Mapping[str, Format],
    input_amax: Mapping[str, float],
    fp8_attention: Iterable[str] = (),
) -> WanTransformer3DModel:
    """A copy of the checkpoint's `model` that computes as an engine should.

    The linear layers are ModelOpt's FP8, and NVFP4 in plain torch; the attentions named are FP8 in plain torch.
    """
    copied = as_stored(model, formats)
    for layer_format, simulate in (("fp8", simulate_fp8), ("nvfp4", simulate_nvfp4)):
        layers = {name: input_amax[name] for name, own in formats.items() if own == layer_format}
        if layers:
            simulate(copied, layers)
    simulate_fp8_attention(copied, {f"{name}.{part}": input_amax[f"{name}.{part}"] for name in fp8_attention for part in "qkv"})
    return copied


_FIGURES = {"fp8": "relative_error_fp8_modelopt", "nvfp4": "relative_error_nvfp4_emulation"}


@torch.inference_mode()
def against_simulation(
    graph: Path,
    model: WanTransformer3DModel,
    formats: Mapping[str, Format],
    input_amax: Mapping[str, float],
    directory: Path,
    fp8_attention: Iterable[str] = (),
) -> dict[str, float]:
    """The graph's relative error against ModelOpt's FP8 and the plain-torch NVFP4, on the tensors in `directory`.

    The bar is on the worst layer of each format, every layer being given the input that it has in the graph. Over the
    whole network the error says less: a last-bit difference now and then flips a rounding, and every later rounding
    amplifies it towards the size of the quantization error itself, in any two implementations. It is recorded all the
    same, as the median over `SIGMAS`.

    `graph` holds `model.onnx`; `model` is the checkpoint's transformer; `formats` and `input_amax` have every quantized
    layer by its name.
    """
    if not formats:
        return {}
    expected = simulated(model, formats, input_amax, fp8_attention)
    worst = {layer_format: 0.0 for layer_format in sorted(set(formats.values()))}
    whole = []
    probe = LayerProbe(graph, formats)
    for inputs, _ in fixed_tensors(directory):
        sample, layers = probe.run(inputs)
        for name, (given, result) in layers.items():
            error = relative_error(result, expected.get_submodule(name)(torch.from_numpy(given)).numpy())
            worst[formats[name]] = max(worst[formats[name]], error)
        named = {name: torch.from_numpy(array) for name, array in inputs.items()}
        whole.append(relative_error(sample, expected(**named, return_dict=False)[0].numpy()))
    layerwise = {_FIGURES[layer_format]: error for layer_format, error in worst.items()}
    return layerwise | {"relative_error_simulation_whole": float(np.median(whole))}


def clips(
    engine: Engine,
    pipe: WanPipeline,
    prompts: list[str],
    variant: Variant,
    directory: Path,
    advance: Callable[[float], None],
) -> dict[str, float]:
    """PSNR of the engine's clips against those in `directory`; for the demo, how often they show what was asked."""
    config: Any = SimpleNamespace(**dict(pipe.transformer.config))
    own = pipe.transformer
    pipe.transformer = RemoteTransformer(engine.run, config)
    try:
        made = make_clips(pipe, prompts, variant, advance)
    finally:
        pipe.transformer = own
    wanted = np.load(directory / _CLIPS)
    figures = clip_figures(made, wanted)
    if variant.name == "demo" and len(prompts) >= CLIPS_TO_JUDGE_SUCCESS:
        asked = [world.parse(prompt) for prompt in prompts]
        rates = {"success_percent": made, "success_percent_fp16": wanted}
        figures |= {name: 100 * success(list(videos), asked).rate for name, videos in rates.items()}
        figures["success_points_lost"] = figures["success_percent_fp16"] - figures["success_percent"]
    return figures
