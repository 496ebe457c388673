"""One generation with MAGI-1 whose networks run elsewhere: what serving calls.

The weightless `pipeline` artifact has tokenizer/, transformer/config.json, transformer/null_caption.safetensors (the network's
null caption, which the sampler needs), vae/config.json, and special_tokens/ for networks that were trained with them.
"""

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from videosdgx.families.magi1.engine.remote import RemoteTransformer, RemoteVAE
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens, encode_prompt
from videosdgx.families.magi1.spec import SPLIT_PROMPTS
from videosdgx.families.networks import Piece, Progress, Run
from videosdgx.families.parts import RemoteTextEncoder
from videosdgx.families.prompts import PromptCache, load_tokenizer
from videosdgx.families.request import GenerationRequest
from videosdgx.families.spec import Variant

NULL_CAPTION_FILE, NULL_CAPTION = "null_caption.safetensors", "null_caption_embedding"


def build_pipeline(directory: Path, variant: Variant, networks: Mapping[str, Run], generation: str) -> MagiPipeline:
    """A pipeline from the `pipeline` artifact at `directory` and functions that run the three networks.

    `generation` names what the transformer keeps for it.
    """
    config = json.loads((directory / "transformer" / "config.json").read_bytes())
    null_caption = load_file(directory / "transformer" / NULL_CAPTION_FILE)[NULL_CAPTION]
    special_tokens = directory / "special_tokens"
    return MagiPipeline(
        tokenizer=load_tokenizer(directory),
        text_encoder=RemoteTextEncoder(networks["text_encoder"]),
        transformer=RemoteTransformer(networks["transformer"], config, null_caption, generation),
        vae=RemoteVAE(networks["vae"], json.loads((directory / "vae" / "config.json").read_bytes())),
        special_tokens=MagiSpecialTokens.from_pretrained(special_tokens) if special_tokens.exists() else None,
        split_prompts=variant.name in SPLIT_PROMPTS,
    )


def generate(
    directory: Path,
    variant: Variant,
    request: GenerationRequest,
    networks: Mapping[str, Run],
    progress: Progress,
    prompts: PromptCache,
) -> Generator[Piece, None, None]:
    """Yield each chunk as soon as it is clean (see `networks.Generate`)."""

    def vae(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "latents" in inputs:
            progress.phase("decoding")
        return networks["vae"](inputs)

    def step_end(_pipeline: MagiPipeline, step: int, _done: Any, _kwargs: dict[str, Any]) -> None:
        progress.step(step + 1)

    def plan(schedule: Any) -> None:
        progress.plan(schedule.num_updates, schedule.num_chunks - schedule.first_chunk)
        progress.phase("sampling")

    progress.phase("encoding")
    pipeline = build_pipeline(directory, variant, {**networks, "vae": vae}, progress.id)
    length = pipeline.transformer.config.caption_max_length

    def encode(prompt: str) -> torch.Tensor:
        return encode_prompt(prompt, pipeline.tokenizer, pipeline.text_encoder, length)

    frames = request.prefix.frames if request.prefix else None
    chunks = pipeline.stream(
        request.prompt,
        image=frames if request.start == "image" else None,
        video=frames if request.start == "video" else None,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        num_inference_steps=request.num_inference_steps,
        window_size=request.window_size,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        prompt_features=lambda prompt: prompts.features(prompt, encode),
        on_schedule=plan,
        callback_on_step_end=step_end,
    )
    left = request.num_frames
    for chunk in chunks:
        left -= len(chunk)
        yield Piece(chunk)
        if left:
            progress.phase("sampling")
