"""MAGI-1's accuracy: fixed tensors and whole clips of the unquantized pipeline, and an engine's distance from them."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.check.accuracy import clip_figures, relative_error, snr_db
from export.check.probe import LayerProbe
from export.families.magi1.graph import TEXT
from export.families.magi1.pipeline import Call, make_clips, recorded
from export.graph.writing import MAIN, GraphFiles
from export.quantize.calibration import simulate_fp8
from export.quantize.emulation import simulate_nvfp4
from export.quantize.linears import Format
from videosdgx.artifacts import Manifest
from videosdgx.engines.onnxruntime_engine import session_options
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.engine.chunk_engine import OnnxChunkEngine
from videosdgx.families.magi1.engine.remote import RemoteTransformer
from videosdgx.families.magi1.engine.stateful import StatefulTransformer
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.spec import Variant

TIMES = (0.005, 0.06, 0.2, 0.6)  # one in each quarter of the schedule
_CLIPS, _TENSORS = "clips.npy", "tensors.npz"
_TEXT_INDEX = len(TIMES)  # where the fixed tensors of the text's graph are


def as_stored(model: MagiTransformer3DModel, quantized: Collection[str] = ()) -> MagiTransformer3DModel:
    """A copy whose matrices are rounded to fp16 where engines store them so; the layers named in `quantized` are not.

    Those are quantized from the checkpoint's own values.
    """
    rounded = copy.deepcopy(model)
    for name, layer in rounded.named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("videodit_blocks") and name not in quantized:
            layer.weight.data = layer.weight.data.half().float()
    return rounded


def reference(
    directory: Path, pipe: MagiPipeline, prompts: list[str], variant: Variant, advance: Callable[[float], None]
) -> None:
    """Write the clips of `pipe`, and what its transformer is given and gives at `TIMES` in the first clip."""
    chunks: list[Call] = []
    texts: list[Call] = []
    with recorded(pipe.transformer, chunks, texts):
        first = make_clips(pipe, prompts[:1], variant, lambda _: None)
    np.save(directory / _CLIPS, make_clips(pipe, prompts, variant, advance) if len(prompts) > 1 else first)
    chosen = [nearest(chunks, time) for time in TIMES]
    arrays: dict[str, np.ndarray] = {}
    for index, (inputs, output) in enumerate([*chosen, texts[0]]):
        arrays |= {f"{index}.in.{name}": array for name, array in inputs.items()} | {f"{index}.out": output}
    np.savez(directory / _TENSORS, **arrays)


def nearest(chunks: list[Call], time: float) -> Call:
    """The chunk nearest to `time` that has text and others before it."""
    return min(chunks, key=lambda call: _distance(call, time))


def _distance(call: Call, time: float) -> float:
    """From a chunk with text at `time` that sees chunks before it."""
    inputs, _ = call
    unlike = not inputs[graphs.HAS_TEXT][0] or not len(inputs[graphs.past_input(0)])
    return abs(float(inputs[graphs.TIMESTEP][0]) - time) + 10 * unlike


def fixed_tensors(directory: Path) -> tuple[list[Call], Call]:
    """(inputs, velocity of the unquantized transformer) for each of `TIMES`, and (features, text_kv) of a text."""
    with np.load(directory / _TENSORS) as arrays:
        every = {name: arrays[name] for name in arrays.files}
    calls = []
    for index in range(len(TIMES) + 1):
        prefix = f"{index}.in."
        given = {name.removeprefix(prefix): array for name, array in every.items() if name.startswith(prefix)}
        calls.append((given, every[f"{index}.out"]))
    return calls[:_TEXT_INDEX], calls[_TEXT_INDEX]


def _run(graph: Path, files: GraphFiles, inputs: list[dict[str, np.ndarray]], threads: int) -> list[np.ndarray]:
    """The first output of a graph for each of `inputs`, which are cast to the floats that it takes."""
    session = ort.InferenceSession(graph / files.model, session_options(threads), providers=["CPUExecutionProvider"])
    halves = {one.name for one in session.get_inputs() if one.type == "tensor(float16)"}
    first = [session.get_outputs()[0].name]
    made = []
    for given in inputs:
        cast = {name: array.astype(np.float16) if name in halves else array for name, array in given.items()}
        made.append(np.asarray(session.run(first, cast)[0], dtype=np.float32))
    return made


def fixed_snr(graph: Path, directory: Path, threads: int) -> dict[str, float]:
    """Signal-to-noise ratio in dB of the velocity at each of `TIMES`, and of a text's keys and values."""
    chunks, (features, text_kv) = fixed_tensors(directory)
    velocities = _run(graph, MAIN, [inputs for inputs, _ in chunks], threads)
    figures = {
        f"velocity_snr_db_time_{time:g}": snr_db(velocity, expected)
        for time, velocity, (_, expected) in zip(TIMES, velocities, chunks, strict=True)
    }
    return figures | {"text_kv_snr_db": snr_db(_run(graph, TEXT, [features], threads)[0], text_kv)}


def simulated(
    model: MagiTransformer3DModel, formats: Mapping[str, Format], input_amax: Mapping[str, float]
) -> MagiTransformer3DModel:
    """A copy of the checkpoint's `model` whose layers are ModelOpt's FP8, and NVFP4 in plain torch."""
    copied = as_stored(model, formats)
    for layer_format, simulate in (("fp8", simulate_fp8), ("nvfp4", simulate_nvfp4)):
        layers = {name: input_amax[name] for name, own in formats.items() if own == layer_format}
        if layers:
            simulate(copied, layers)
    return copied


_FIGURES = {"fp8": "relative_error_fp8_modelopt", "nvfp4": "relative_error_nvfp4_emulation"}


def chunk_output(model: MagiTransformer3DModel, inputs: Mapping[str, np.ndarray]) -> Tensor:
    """The velocity of the model for the inputs of the chunk's graph."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    past = [given.pop(graphs.past_input(layer)) for layer in range(len(model.layers))]
    named = {"text_states" if name == graphs.TEXT_KV else name: value for name, value in given.items()}
    velocity, _ = model.forward_chunk(**named, past=past)
    return velocity


@torch.inference_mode()
def against_simulation(
    graph: Path,
    model: MagiTransformer3DModel,
    formats: Mapping[str, Format],
    input_amax: Mapping[str, float],
    directory: Path,
) -> dict[str, float]:
    """The graphs' relative error against ModelOpt's FP8 and the plain-torch NVFP4, on the tensors in `directory`.

    The bar is on the worst layer of each format, every layer being given the input that it has in the graph (see
    `export.families.wan21.verify.against_simulation` for the reason); that of the whole velocity is recorded as the median.
    """
    if not formats:
        return {}
    expected = simulated(model, formats, input_amax)
    worst = {layer_format: 0.0 for layer_format in sorted(set(formats.values()))}
    whole: list[float] = []
    chunks, text = fixed_tensors(directory)
    of_text = {name for name in formats if name.endswith("linear_kv_xattn")}
    for files, names, calls in ((MAIN, formats.keys() - of_text, chunks), (TEXT, of_text, [text])):
        if not names:
            continue
        probe = LayerProbe(graph, sorted(names), files)
        for inputs, _ in calls:
            output, layers = probe.run(inputs)
            for name, (given, result) in layers.items():
                error = relative_error(result, expected.get_submodule(name)(torch.from_numpy(given)).numpy())
                worst[formats[name]] = max(worst[formats[name]], error)
            if files is MAIN:
                whole.append(relative_error(output, chunk_output(expected, inputs).numpy()))
    layerwise = {_FIGURES[layer_format]: error for layer_format, error in worst.items()}
    return layerwise | {"relative_error_simulation_whole": float(np.median(whole))}


class _OwnTransformer(RemoteTransformer):
    """Stands for a component of this process: after each clip nobody else releases what is kept for it."""

    def __init__(self, component: StatefulTransformer, config: Mapping[str, Any], null_caption: Tensor) -> None:
        super().__init__(component.run, config, null_caption, "verify")
        self._component = component

    def release(self) -> None:
        """Drop the clip's keys and values."""
        self._component.release("verify")


@contextmanager
def run_by_engine(pipe: MagiPipeline, graph: Path, manifest: Manifest, threads: int) -> Iterator[None]:
    """Inside, the graphs in the folder `graph` on ONNX Runtime stand for the pipeline's transformer, as in serving."""
    own = pipe.transformer
    component = StatefulTransformer(OnnxChunkEngine(graph, threads), manifest)
    null_caption = own.y_embedder.null_caption_embedding.detach()
    pipe.register_modules(transformer=_OwnTransformer(component, dict(own.config), null_caption))
    try:
        yield
    finally:
        pipe.register_modules(transformer=own)
        component.close()


def clips(
    graph: Path,
    manifest: Manifest,
    pipe: MagiPipeline,
    prompts: list[str],
    variant: Variant,
    directory: Path,
    threads: int,
    advance: Callable[[float], None],
) -> dict[str, float]:
    """PSNR of the clips of the graphs on ONNX Runtime, run as serving runs them, against those in `directory`."""
    with run_by_engine(pipe, graph, manifest, threads):
        made = make_clips(pipe, prompts, variant, advance)
    return clip_figures(made, np.load(directory / _CLIPS))
