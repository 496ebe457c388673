"""Calibrating a transformer that does not fit in memory: its layers are read from the source as they run.

As for Wan 2.1 (`export.families.wan21.streamed`), whose hooks are used: each layer's weights are in place only while it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.hooks import attach_align_device_hook
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from export.check.blockwise import BlockInputs
from export.checkpoint import reading
from export.checkpoint.hooks import StreamedWeights, streamed
from export.families.magi1 import policy
from export.families.magi1.config import CHUNK_FRAMES
from export.families.magi1.pipeline import SPECIAL_TOKENS, plain_linears
from export.families.magi1.source import Source
from export.quantize.calibration import input_maxima
from videosdgx.families.magi1.network.rotary import token_positions
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens

# Small enough for a CPU: the layers' inputs are normalised, so their range hardly depends on how many tokens there are.
WIDTH, HEIGHT, FRAMES, STEPS = 192, 128, 48, 4
# What random weights see: a chunk after another one, noisy and less so, with a text.
TIMES = (0.05, 0.5)
_TEXT_TOKENS = 50
_RANDOM_BLOCKS = 3  # a first, a middle and a last one
_GRID = (4, 6)


def streamed_transformer(source: Source) -> MagiTransformer3DModel:
    """The transformer in fp32 that holds one layer of its blocks at a time."""
    with init_empty_weights():
        model = MagiTransformer3DModel.from_config(source.plain_content)
    blocks = "videodit_blocks.layers"
    small = {name: source.tensors[name].float() for name in source.tensors if not name.startswith(blocks)}
    model.load_state_dict(small, strict=False, assign=True)
    plain_linears(model.eval())
    layers = model.videodit_blocks.layers
    weights = StreamedWeights(source.tensors)
    attach_align_device_hook(layers, execution_device="cpu", offload=True, weights_map=weights, module_name=blocks)
    return model


def checked_blocks(source: Source) -> list[int]:
    """The first block, one of those in the middle, the last one: as many as there are kinds."""
    last = source.config.num_layers - 1
    return sorted({0, last // 2, last})


@contextmanager
def _recorded(model: MagiTransformer3DModel, indices: Sequence[int], seen: dict[int, BlockInputs]) -> Iterator[None]:
    """While open, keep what the blocks `indices` are given at their first call with keys and values before their own."""

    def hook(index: int) -> Callable[..., None]:
        def record(_: nn.Module, given: tuple[Any, ...]) -> None:
            x, condition, (cos, sin), text_kv, past = given[:5]
            if index in seen or past is None or not len(past):
                return
            parts = {"x": x, "condition": condition, "cos": cos, "sin": sin, "text_kv": text_kv, "past_kv": past}
            seen[index] = {name: part.float().numpy().copy() for name, part in parts.items()}

        return record

    handles = [model.layers[index].register_forward_pre_hook(hook(index)) for index in indices]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def calibrate_random(source: Source) -> tuple[dict[str, float], dict[int, BlockInputs]]:
    """Input maxima of every quantized layer, and what a first, a middle and a last block were given.

    Random blocks are all alike: a few run one after the other, on seeded noise, and stand for all. The first has next to no
    residual stream to add to, so what it is given tells nothing of the others.
    """
    last = source.config.num_layers - 1
    few = replace(source, layers=min(last + 1, _RANDOM_BLOCKS))
    config, model = few.config, streamed_transformer(few)
    generator = torch.Generator().manual_seed(0)
    rows, columns = _GRID
    positions = token_positions(CHUNK_FRAMES, CHUNK_FRAMES, rows, columns)
    latents = torch.randn(1, config.latent_channels, CHUNK_FRAMES, 2 * rows, 2 * columns, generator=generator)
    features = torch.randn(_TEXT_TOKENS, config.caption_channels, generator=generator)
    step_size = torch.tensor([8.0]) if config.distilled else None

    def run() -> None:
        text_kv = model.encode_text(features)
        past = [torch.zeros(0, config.num_query_groups, 2 * config.attention_head_dim)] * config.num_layers
        for time in TIMES:
            given = (latents, torch.tensor([time]), torch.tensor([True]), positions, text_kv)
            past = model.forward_chunk(*given, past, step_size)[1]

    def stand_in(index: int) -> int:
        return 0 if index == 0 else config.num_layers - 1 if index == last else 1

    seen: dict[int, BlockInputs] = {}
    with _recorded(model, range(config.num_layers), seen):
        maxima = input_maxima(model, policy.all_linears(config), run)
    linears = [(policy.block_linears(index), policy.block_linears(stand_in(index))) for index in range(last + 1)]
    alike = {name: maxima[other] for names, others in linears for name, other in zip(names, others, strict=True)}
    return alike, {index: seen[stand_in(index)] for index in checked_blocks(source)}


class _NoVae:
    """In place of the autoencoder: a calibration needs no pictures."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, channels: int) -> None:
        self.config = SimpleNamespace(latent_channels=channels, scaling_factor=1.0)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """A black picture instead of each chunk."""
        return SimpleNamespace(sample=torch.zeros(1, 3, 4 * latents.shape[2], HEIGHT, WIDTH))


class _OnCpu(T5EncoderModel):
    """Says where its inputs belong, which its weights, elsewhere until they are needed, do not tell."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cpu")


def _text_encoder(directory: Path) -> T5EncoderModel:
    with init_empty_weights():
        model = _OnCpu(T5EncoderModel.config_class.from_pretrained(directory)).eval()
    aliases = {"encoder.embed_tokens.weight": "shared.weight"}
    return streamed(model, StreamedWeights(reading.Tensors(directory), aliases))


@torch.inference_mode()
def calibrate_checkpoint(
    source: Source, prompts: Sequence[str], advance: Callable[[float], None]
) -> tuple[dict[str, float], dict[int, BlockInputs]]:
    """The same from real runs of the pipeline on `prompts`, small and short, without ever holding the model.

    All branches of guidance run, at `STEPS` noise levels, for two chunks. `advance` is told of each clip.
    """
    assert source.directory is not None
    root = source.directory.parent
    model = streamed_transformer(source)
    special = root / SPECIAL_TOKENS
    pipe = MagiPipeline(
        tokenizer=AutoTokenizer.from_pretrained(root / "tokenizer"),
        text_encoder=_text_encoder(root / "text_encoder"),
        transformer=model,
        vae=_NoVae(source.config.latent_channels),
        special_tokens=MagiSpecialTokens.from_pretrained(special, use_safetensors=True) if special.is_dir() else None,
    )

    def run() -> None:
        for index, prompt in enumerate(prompts):
            generator = torch.Generator().manual_seed(index)
            for _ in pipe.stream(
                prompt,
                height=HEIGHT,
                width=WIDTH,
                num_frames=FRAMES,
                num_inference_steps=STEPS,
                generator=generator,
            ):
                pass
            advance(1)

    seen: dict[int, BlockInputs] = {}
    with _recorded(model, checked_blocks(source), seen):
        maxima = input_maxima(model, policy.all_linears(source.config), run)
    return maxima, seen
