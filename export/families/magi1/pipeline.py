"""The real pipeline around a transformer, the model itself or an engine: for calibration and for whole clips."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel
from transformers.utils import logging as transformers_logging

from export.checkpoint import reading
from export.families.magi1.graph import TEXT
from export.families.magi1.stored_network import PlainTensors
from export.graph.writing import MAIN
from export.run.errors import ExportError
from export.run.recipe import Advance, Arrays, FixedCall, Velocity
from videosdgx.artifacts import Manifest
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.engine.chunk_engine import OnnxChunkEngine
from videosdgx.families.magi1.engine.remote import RemoteTransformer
from videosdgx.families.magi1.engine.stateful import StatefulTransformer
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.block import WideLinear
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens
from videosdgx.families.spec import Variant

SPECIAL_TOKENS = "special_tokens"
TIMES = (0.005, 0.06, 0.2, 0.6)  # one in each quarter of the schedule
Call = tuple[Arrays, np.ndarray]  # what a graph is given, and its first output


def plain_linears(model: MagiTransformer3DModel) -> MagiTransformer3DModel:
    """Have ModelOpt know all linear layers of a model in fp32: widening fp32 operands to fp32 changes nothing."""
    for layer in model.modules():
        if isinstance(layer, WideLinear):
            layer.__class__ = nn.Linear  # type: ignore[assignment]
    return model


def load_transformer(directory: Path, tensors: Mapping[str, Tensor] | None = None) -> MagiTransformer3DModel:
    """The transformer in fp32; `tensors` stand for the files' if they are others."""
    model = MagiTransformer3DModel.from_config(reading.config(directory) | {"fp8_layers": []})
    try:
        model.load_state_dict(dict(tensors or PlainTensors(reading.Tensors(directory))))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ExportError(f"the weights in {directory} do not fit its config.json: {reason}") from None
    return plain_linears(model.float().eval())


def load_pipeline(directory: Path, _: Variant, tensors: Mapping[str, Tensor] | None = None) -> MagiPipeline:
    """The whole pipeline of a checkpoint in fp32 on the CPU, silent; `tensors` are the transformer's, if they are others."""
    transformers_logging.disable_progress_bar()
    special = directory / SPECIAL_TOKENS
    return MagiPipeline(
        tokenizer=AutoTokenizer.from_pretrained(directory / "tokenizer"),
        text_encoder=reading.text_encoder(T5EncoderModel, directory / "text_encoder"),
        transformer=load_transformer(directory / "transformer", tensors),
        vae=AutoencoderKLMagi.from_pretrained(directory / "vae", low_cpu_mem_usage=False, use_safetensors=True),
        special_tokens=MagiSpecialTokens.from_pretrained(special, use_safetensors=True) if special.is_dir() else None,
        split_prompts=bool(reading.index(directory).get("split_prompts", False)),
    )


def make_clips(pipe: MagiPipeline, prompts: list[str], variant: Variant, advance: Advance) -> np.ndarray:
    """One clip for each prompt with the variant's settings, fp32 0..1 [n, F, H, W, 3]; prompt i has seed i.

    `advance` is told the number of clips done.
    """
    made = []
    for index, prompt in enumerate(prompts):
        result = pipe(
            prompt,
            height=variant.height,
            width=variant.width,
            num_frames=variant.num_frames,
            num_inference_steps=variant.num_inference_steps,
            window_size=variant.window_size,
            generator=torch.Generator().manual_seed(index),
        )
        made.append(result.frames[0])
        advance(1)
    return np.stack(made)


@contextlib.contextmanager
def recorded(model: MagiTransformer3DModel, chunks: list[Call], texts: list[Call]) -> Iterator[None]:
    """While open, append the chunk graph's inputs and the velocity of every chunk to `chunks`; features and text_kv of every
    text to `texts`.
    """
    forward_chunk, encode_text = model.forward_chunk, model.encode_text

    def keep_chunk(*given: Any) -> Any:
        names = (graphs.HIDDEN_STATES, graphs.TIMESTEP, graphs.HAS_TEXT, graphs.POSITIONS, graphs.TEXT_KV)
        result = forward_chunk(*given)
        inputs = {name: part.numpy().copy() for name, part in zip(names, given[:5], strict=True)}
        inputs |= {graphs.past_input(layer): part.numpy().copy() for layer, part in enumerate(given[5])}
        if given[6] is not None:
            inputs[graphs.STEP_SIZE] = given[6].numpy().copy()
        chunks.append((inputs, result[0].numpy().copy()))
        return result

    def keep_text(encoder_hidden_states: Tensor) -> Tensor:
        result = encode_text(encoder_hidden_states)
        texts.append(({graphs.ENCODER_HIDDEN_STATES: encoder_hidden_states.numpy().copy()}, result.numpy().copy()))
        return result

    model.forward_chunk, model.encode_text = keep_chunk, keep_text  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        del model.forward_chunk, model.encode_text


def nearest(chunks: list[Call], time: float) -> Call:
    """The chunk nearest to `time` that has text and others before it."""
    return min(chunks, key=lambda call: _distance(call, time))


def _distance(call: Call, time: float) -> float:
    """From a chunk with text at `time` that sees chunks before it."""
    inputs, _ = call
    unlike = not inputs[graphs.HAS_TEXT][0] or not len(inputs[graphs.past_input(0)])
    return abs(float(inputs[graphs.TIMESTEP][0]) - time) + 10 * unlike


def fixed_calls(pipe: MagiPipeline, prompts: list[str], variant: Variant) -> tuple[list[FixedCall], np.ndarray]:
    """A chunk near each of `TIMES`, a text's keys and values, and the clips."""
    chunks: list[Call] = []
    texts: list[Call] = []
    with recorded(pipe.transformer, chunks, texts):
        clips = make_clips(pipe, prompts, variant, lambda _: None)
    found = [FixedCall(f"velocity_snr_db_time_{time:g}", MAIN, *nearest(chunks, time)) for time in TIMES]
    return [*found, FixedCall("text_kv_snr_db", TEXT, *texts[0])], clips


def forward(model: nn.Module, inputs: Arrays) -> Tensor:
    """The velocity of the model for the inputs of the chunk's graph."""
    magi = cast(MagiTransformer3DModel, model)
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    past = [given.pop(graphs.past_input(layer)) for layer in range(len(magi.layers))]
    named = {"text_states" if name == graphs.TEXT_KV else name: value for name, value in given.items()}
    velocity, _ = magi.forward_chunk(**named, past=past)
    return velocity


def velocities(pipe: MagiPipeline, prompts: list[str], variant: Variant) -> list[Velocity]:
    """For each prompt a chunk near each of `TIMES`, whose text's keys and values the model makes anew from its features."""

    def run(inputs: Arrays, features: np.ndarray, model: nn.Module) -> np.ndarray:
        text_kv = cast(MagiTransformer3DModel, model).encode_text(torch.from_numpy(features)).numpy()
        made: np.ndarray = forward(model, inputs | {graphs.TEXT_KV: text_kv}).numpy()
        return made

    found = []
    for prompt in prompts:
        chunks: list[Call] = []
        texts: list[Call] = []
        with recorded(pipe.transformer, chunks, texts):
            make_clips(pipe, [prompt], variant, lambda _: None)
        for time in TIMES:
            inputs, velocity = nearest(chunks, time)
            found.append(Velocity(partial(run, inputs, _features(texts, inputs[graphs.TEXT_KV])), velocity))
    return found


def _features(texts: list[Call], text_kv: np.ndarray) -> np.ndarray:
    """The features whose keys and values these are."""
    return next(given[graphs.ENCODER_HIDDEN_STATES] for given, made in texts if np.array_equal(made, text_kv))


def in_half(name: str, layer: nn.Module) -> bool:
    """Whether an engine stores a layer's weight in fp16 where it is not quantized: those of the blocks."""
    return isinstance(layer, nn.Linear) and name.startswith("videodit_blocks")


@contextlib.contextmanager
def by_engine(pipe: MagiPipeline, graph: Path, manifest: Manifest, threads: int) -> Iterator[None]:
    """Inside, the graphs in the folder `graph` on ONNX Runtime stand for the pipeline's transformer, as in serving."""
    own = pipe.transformer
    component = StatefulTransformer(OnnxChunkEngine(graph, threads), manifest)
    null_caption = own.y_embedder.null_caption_embedding.detach()
    release = partial(component.release, "verify")  # after each clip: the next one begins with nothing
    remote = RemoteTransformer(component.run, dict(own.config), null_caption, "verify", release)
    pipe.register_modules(transformer=remote)
    try:
        yield
    finally:
        pipe.register_modules(transformer=own)
        component.close()
