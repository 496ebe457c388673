"""Train the Wan 2.1 demo checkpoint from its seed: `python -m export.demo.wan21.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline
from rich.console import Console

from export.demo import text, world
from export.demo.checkpoint import WAN21
from export.demo.wan21 import train_transformer, train_vae

_WORK = Path("outputs/demo/wan21")


def train(
    seed: Annotated[int, typer.Option(help="Seed of weights, data and noise.")] = 0,
    vae_steps: Annotated[int, typer.Option(help="Training steps of the VAE.")] = train_vae.STEPS,
    steps: Annotated[int, typer.Option(help="Training steps of the transformer.")] = train_transformer.STEPS,
    threads: Annotated[int, typer.Option(help="CPU threads; more than one pays only on idle cores.")] = 1,
    work: Annotated[Path, typer.Option(help="The trained VAE is kept here, and not trained again.")] = _WORK,
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes, in diffusers layout.")] = WAN21,
) -> None:
    """Train the VAE (25 minutes on one core), then the transformer (an hour), and write a WanPipeline checkpoint.

    Run `python -m export.demo.evaluate wan21` afterwards. A VAE found in --work is taken from there: delete the folder
    to start over. Same seed, steps and machine: same weights.
    """
    console = Console()
    torch.set_num_threads(threads)
    if (work / "vae").exists():
        console.print(f"vae: taken from {work / 'vae'}")
        vae = AutoencoderKLWan.from_pretrained(work / "vae").eval()
    else:
        vae = train_vae.train(seed, vae_steps, console.print)
        vae.save_pretrained(work / "vae")
    tokenizer = text.build_tokenizer(world.vocabulary())
    encoder = text.build_encoder(len(tokenizer), seed)
    data = train_transformer.prepare(vae, tokenizer, encoder, np.random.default_rng(seed + 2))
    console.print(f"latents {tuple(data.latents.shape)} and {len(data.lengths)} captions are ready")
    transformer = train_transformer.train(data, seed, steps, console.print)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        num_train_timesteps=1000,
        flow_shift=train_transformer.FLOW_SHIFT,
    )
    WanPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, scheduler=scheduler, transformer=transformer
    ).save_pretrained(out)
    for path in out.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where a part was loaded from on this machine
        path.write_text(json.dumps(config, indent=2) + "\n")
    console.print(f"written to {out}")


if __name__ == "__main__":
    typer.run(train)
