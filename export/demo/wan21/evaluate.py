"""Count how often a demo checkpoint shows what its prompt says: `python -m export.demo.wan21.evaluate wan21`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import WanPipeline
from rich.console import Console
from rich.table import Table

from export.demo import world
from export.demo.checkpoint import CHECKPOINTS, load_wan21
from export.demo.judge import PROPERTIES, success
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


def evaluate(
    family: Annotated[str, typer.Argument(help="Which demo: wan21.")],
    clips: Annotated[int, typer.Option(help="How many unseen prompts.")] = 100,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = STEPS,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = GUIDANCE,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; by default the committed one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Generate clips of unseen combinations in fp32 through diffusers, judge them, and print how many are right."""
    if family != "wan21":
        raise typer.BadParameter(f"no demo {family!r}; there is: wan21")
    pipe = load_wan21(checkpoint or CHECKPOINTS / family)
    wanted, prompts = zip(*unseen_prompts(clips), strict=True)
    began = time.monotonic()
    made = list(generate(pipe, list(prompts), steps, guidance))
    seconds = (time.monotonic() - began) / clips
    result = success(made, wanted)
    mean, least = vae_psnr(pipe)
    if as_json:
        figures = {
            "rate": result.rate,
            "steps": steps,
            "guidance": guidance,
            "seconds_per_clip": round(seconds, 3),
            "vae_psnr_db": round(mean, 2),
            "vae_psnr_least_db": round(least, 2),
        }
        print(json.dumps(asdict(result) | figures))
        return
    table = Table(title=f"{family}: {clips} unseen prompts, {steps} steps, guidance {guidance:g}, {seconds:.2f} s per clip")
    table.add_column("property")
    table.add_column("right", justify="right")
    for name in PROPERTIES:
        table.add_row(name, str(getattr(result, name)))
    table.add_row("all four", str(result.all_four), style="bold")
    Console().print(table)
    Console().print(f"VAE alone, rendered unseen clips there and back: {mean:.2f} dB (least {least:.2f})")


if __name__ == "__main__":
    typer.run(evaluate)
