"""What the Wan 2.1 demo is judged on: clips of combinations that its training never saw (see `export.demo.evaluate`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
import torch
from diffusers import WanPipeline

from export.demo import world
from export.demo.checkpoint import load_wan21
from export.demo.judge import success
from export.demo.judging import Judging
from export.demo.wan21 import train_vae
from export.demo.world import Combination, Floats

STEPS = 20
GUIDANCE = 3.0


def unseen_prompts(clips: int) -> list[tuple[Combination, str]]:
    """`clips` prompts of combinations that training never saw, the same on every call.

    Every held-out combination comes once with its plain caption, in a fixed shuffled order, before any comes again
    with a paraphrase.
    """
    _, held_out = world.split()
    rng = np.random.default_rng(0)
    order = [held_out[index] for index in rng.permutation(len(held_out))]
    prompts = []
    for index in range(clips):
        combination = order[index % len(order)]
        captions = world.captions(combination)
        plain = index < len(order)
        prompts.append((combination, captions[0] if plain else captions[rng.integers(1, len(captions))]))
    return prompts


def generate(
    pipe: WanPipeline, prompts: list[str], steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 10
) -> Iterator[Floats]:
    """One clip [9, 64, 64, 3] in 0..1 for each prompt; prompt i starts from the noise of seed i, in any batch."""
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        noise = [torch.Generator().manual_seed(first + index) for index in range(len(part))]
        yield from pipe(
            part,
            height=world.SIZE,
            width=world.SIZE,
            num_frames=world.FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
        ).frames


def vae_psnr(pipe: WanPipeline, clips: int = 50) -> tuple[float, float]:
    """Mean and least PSNR in dB of rendered clips of held-out combinations, through the VAE and back."""
    rendered = train_vae.draw(world.split()[1], clips, np.random.default_rng(0))
    quality = train_vae.psnr(pipe.vae, rendered)
    return float(quality.mean()), float(quality.min())


def judge_clips(pipe: WanPipeline, clips: int) -> Mapping[str, int]:
    """How many of so many clips are right, property by property, and in all of them."""
    wanted, prompts = zip(*unseen_prompts(clips), strict=True)
    counts = asdict(success(list(generate(pipe, list(prompts))), wanted))
    return {name.replace("_", " "): count for name, count in counts.items() if name != "clips"}


def judge_parts(pipe: WanPipeline) -> Mapping[str, float]:
    """The VAE alone: PSNR in dB of rendered clips there and back."""
    mean, least = vae_psnr(pipe)
    return {"VAE alone, mean PSNR (dB)": mean, "VAE alone, least PSNR (dB)": least}


JUDGING = Judging(
    load=load_wan21,
    about=f"{STEPS} steps, guidance {GUIDANCE:g}",
    clips=judge_clips,
    parts=judge_parts,
    bars={"all four": 95},
    lost={"all four": {"fp8": 2, "nvfp4": 5}},
    least={"VAE alone, mean PSNR (dB)": 32.0},
    threads=1,
    export_clips=100,
)
