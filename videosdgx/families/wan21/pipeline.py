"""Wan 2.1's pipeline: diffusers' own `WanPipeline`, whose three networks run elsewhere.

A network is called through a function from named numpy arrays to named numpy arrays: an engine in this process, or a
Triton component in another. So the served video and the in-process video come from the same code. The stand-ins are
(empty) torch modules because the pipeline asks its parts for their device the way it asks modules.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import WanPipeline

from videosdgx.families.networks import Piece, Progress, Run
from videosdgx.families.parts import RemoteTextEncoder
from videosdgx.families.prompts import PromptCache, load_tokenizer
from videosdgx.families.request import GenerationRequest
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.few_step import build_scheduler, share_generator
from videosdgx.media.video import to_uint8

# Both official and diffusers code pad the text to 512 positions; the I2V blocks rely on that number.
TEXT_LENGTH = 512


def _config(path: Path) -> SimpleNamespace:
    return SimpleNamespace(**json.loads(path.read_text()))


class RemoteTransformer(torch.nn.Module):
    """Stands for `WanTransformer3DModel`: same call, same result tuple; the forward pass happens in `run`."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, run: Run, config: SimpleNamespace):
        super().__init__()
        self.run = run
        self.config = config

    @contextmanager
    def cache_context(self, name: str, **step: Any) -> Iterator[None]:
        """The pipeline tells which guidance branch and step follows; nothing is cached between steps here."""
        yield

    def forward(
        self, hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> tuple[torch.Tensor]:
        """Velocity [B,16,f,h,w] (noise - data) for latents of the same shape, timestep [B] in 0..1000, text [B,512,D]."""
        outputs = self.run(
            {
                "hidden_states": hidden_states.float().numpy(),
                "timestep": timestep.float().numpy(),
                "encoder_hidden_states": encoder_hidden_states.float().numpy(),
            }
        )
        return (torch.from_numpy(outputs["sample"]),)


class RemoteVAE(torch.nn.Module):
    """Stands for `AutoencoderKLWan`, of which text to video needs the decoder."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, run: Run, config: SimpleNamespace):
        super().__init__()
        self.run = run
        self.config = config

    def decode(self, z: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        """Video [B,3,F,H,W] in [-1,1] for latents [B,16,f,h,w] that are no longer normalised."""
        return (torch.from_numpy(self.run({"latents": z.float().numpy()})["video"]),)


def build_pipeline(directory: Path, variant: Variant, text_encoder: Run, transformer: Run, vae: Run) -> WanPipeline:
    """A `WanPipeline` from the weightless `pipeline` artifact at `directory` and three functions that run the networks.

    A pipeline holds the scheduler's history, so each generation needs one of its own; building one is cheap
    (see `load_tokenizer` for the part that is not).
    """
    scheduler = build_scheduler(directory / "scheduler", variant.sampler, variant.flow_shift)
    pipeline = WanPipeline(
        tokenizer=load_tokenizer(directory),
        text_encoder=RemoteTextEncoder(text_encoder),
        vae=RemoteVAE(vae, _config(directory / "vae" / "config.json")),
        scheduler=scheduler,
        transformer=RemoteTransformer(transformer, _config(directory / "transformer" / "config.json")),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    directory: Path,
    variant: Variant,
    request: GenerationRequest,
    networks: Mapping[str, Run],
    progress: Progress,
    prompts: PromptCache,
) -> Generator[Piece, None, None]:
    """Encode the prompts, run the sampling loop, decode: the clip in one piece (see `networks.Generate`)."""

    def decode(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        progress.phase("decoding")
        return networks["vae"](inputs)

    def step_end(_pipeline: WanPipeline, step: int, _timestep: Any, _kwargs: dict[str, Any]) -> dict[str, Any]:
        progress.step(step + 1)
        return {}

    def encode(prompt: str) -> torch.Tensor:
        """[1,512,D] float32, zero beyond the tokens."""
        embeds, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=TEXT_LENGTH)
        return embeds

    pipeline = build_pipeline(directory, variant, networks["text_encoder"], networks["transformer"], decode)
    progress.phase("encoding")
    guided = request.guidance_scale > 1.0  # the condition of the pipeline
    embeds = prompts.features(request.prompt, encode)
    negative_embeds = prompts.features(request.negative_prompt, encode) if guided else None
    progress.phase("sampling")
    generator = torch.Generator("cpu").manual_seed(request.seed)
    share_generator(pipeline.scheduler, generator)
    output = pipeline(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative_embeds,
        width=request.width,
        height=request.height,
        num_frames=request.num_frames,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
        callback_on_step_end=step_end,
        callback_on_step_end_tensor_inputs=[],
        output_type="np",
    )
    yield Piece(to_uint8(output.frames[0]))
