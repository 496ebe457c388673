"""The real pipeline around a transformer, the model itself or an engine: for calibration and for whole clips."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel
from transformers.utils import logging as transformers_logging

from export.checkpoint import reading
from export.run.errors import ExportError
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.block import WideLinear
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens
from videosdgx.families.spec import Variant

SPECIAL_TOKENS = "special_tokens"


def plain_linears(model: MagiTransformer3DModel) -> MagiTransformer3DModel:
    """Have ModelOpt know all linear layers of a model in fp32: widening fp32 operands to fp32 changes nothing."""
    for layer in model.modules():
        if isinstance(layer, WideLinear):
            layer.__class__ = nn.Linear  # type: ignore[assignment]
    return model


def load_transformer(directory: Path, tensors: Mapping[str, Tensor]) -> MagiTransformer3DModel:
    """The transformer in fp32 with these `tensors`, and the config.json of `directory`."""
    model = MagiTransformer3DModel.from_config(reading.config(directory) | {"fp8_layers": []})
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ExportError(f"the weights in {directory} do not fit its config.json: {reason}") from None
    return plain_linears(model.float().eval())


def load_pipeline(directory: Path, tensors: Mapping[str, Tensor]) -> MagiPipeline:
    """The whole pipeline of a checkpoint in fp32 on the CPU, silent; `tensors` are the transformer's."""
    transformers_logging.disable_progress_bar()
    special = directory / SPECIAL_TOKENS
    return MagiPipeline(
        tokenizer=AutoTokenizer.from_pretrained(directory / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(directory / "text_encoder", dtype=torch.float32, use_safetensors=True),
        transformer=load_transformer(directory / "transformer", tensors),
        vae=AutoencoderKLMagi.from_pretrained(directory / "vae", low_cpu_mem_usage=False, use_safetensors=True),
        special_tokens=MagiSpecialTokens.from_pretrained(special, use_safetensors=True) if special.is_dir() else None,
        split_prompts=bool(reading.index(directory).get("split_prompts", False)),
    )


def make_clips(pipe: MagiPipeline, prompts: list[str], variant: Variant, advance: Callable[[float], None]) -> np.ndarray:
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


Call = tuple[dict[str, np.ndarray], np.ndarray]


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
