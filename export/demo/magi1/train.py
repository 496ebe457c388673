"""Train the MAGI-1 demo checkpoint from its seed: `python -m export.demo.magi1.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from export.demo import text
from export.demo.checkpoint import MAGI1
from export.demo.magi1 import train_transformer, train_vae, world
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens

_WORK = Path("outputs/demo/magi1")
_GOING_ON_RATE = 2e-3  # of a VAE that goes on


def text_parts(seed: int) -> tuple[PreTrainedTokenizerFast, T5EncoderModel, MagiSpecialTokens]:
    """What is not trained: tokenizer, text encoder, special tokens."""
    tokenizer = text.build_tokenizer(world.vocabulary())
    encoder = text.build_t5_encoder(len(tokenizer), seed)
    return tokenizer, encoder, MagiSpecialTokens.from_arrays(train_transformer.special_tokens(seed))


def write(vae: AutoencoderKLMagi, transformer: MagiTransformer3DModel, seed: int, out: Path) -> None:
    """Write a MagiPipeline checkpoint in diffusers layout."""
    tokenizer, encoder, tokens = text_parts(seed)
    transformer.register_to_config(guidance=train_transformer.GUIDANCE)
    MagiPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        transformer=transformer,
        vae=vae,
        special_tokens=tokens,
        split_prompts=True,
    ).save_pretrained(out)
    for path in out.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where a part was loaded from on this machine
        path.write_text(json.dumps(config, indent=2) + "\n")


def train(
    seed: Annotated[int, typer.Option(help="Seed of the text encoder and of fresh weights: the same to go on.")] = 0,
    data_seed: Annotated[int, typer.Option(help="Seed of clips, their order and noise: another one for every leg.")] = 0,
    vae_steps: Annotated[
        int | None, typer.Option(help="Training steps of the VAE: 1400 from scratch, 0 where one is there already.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the transformer.")] = train_transformer.STEPS,
    rate: Annotated[float, typer.Option(help="Highest learning rate; lower to go on.")] = train_transformer.PEAK_RATE,
    threads: Annotated[int, typer.Option(help="CPU threads; more than one pays only on idle cores.")] = 1,
    work: Annotated[Path, typer.Option(help="Where the trained VAE is kept, and the transformer's weights so far.")] = _WORK,
    start: Annotated[Path | None, typer.Option(help="Checkpoint whose VAE and transformer are taken to go on from.")] = None,
    out: Annotated[Path, typer.Option(help="Where the checkpoint goes, in diffusers layout.")] = MAGI1,
) -> None:
    """Train the VAE (10 minutes on two cores), then the transformer (0.4 s a step on one), and write a checkpoint.

    Run `python -m export.demo.evaluate magi1` afterwards. Without --start a VAE found in --work is taken from there: delete the
    folder to start over. Same seeds, steps and machine: same weights.
    """
    console = Console()
    torch.set_num_threads(threads)
    vae = _vae(seed, data_seed, vae_steps, work, start, console)
    transformer = _transformer(vae, seed, data_seed, steps, rate, work, start, console)
    write(vae, transformer, seed, out)
    console.print(f"written to {out}")


def _vae(seed: int, data_seed: int, steps: int | None, work: Path, start: Path | None, console: Console) -> AutoencoderKLMagi:
    """The VAE in `start`, trained on for `steps`; else that in `work`; else one from scratch, which is put there."""
    ready = (start or work) / "vae"
    if ready.exists():
        console.print(f"vae: taken from {ready}")
        vae = AutoencoderKLMagi.from_pretrained(ready).eval()
        if not (start and steps):
            return vae
        vae = train_vae.train(data_seed, steps, console.print, _GOING_ON_RATE, vae)
    else:
        vae = train_vae.train(seed, train_vae.STEPS if steps is None else steps, console.print)
    vae.save_pretrained(work / "vae")
    return vae


def _transformer(
    vae: AutoencoderKLMagi, seed: int, data_seed: int, steps: int, rate: float, work: Path, start: Path | None, console: Console
) -> MagiTransformer3DModel:
    """The transformer, from scratch or on from that in `start`; without steps that one as it is."""
    begun = MagiTransformer3DModel.from_pretrained(start / "transformer") if start else None
    if begun is not None and not steps:
        return begun
    tokenizer, encoder, tokens = text_parts(seed)
    clips = train_transformer.CLIPS_PER_COMBINATION
    latents, shown = train_transformer.encode_clips(vae, clips, np.random.default_rng(data_seed + 2))
    data = train_transformer.prepare(latents, shown, tokenizer, encoder, tokens.other_tokens)
    console.print(f"{len(latents)} clips of {latents.shape[1]} chunks and {len(data.lengths)} captions are ready")

    def keep(model: MagiTransformer3DModel) -> None:
        model.save_pretrained(work / "transformer")

    model = begun or train_transformer.build(seed)
    return train_transformer.train(data, data_seed, steps, console.print, keep, rate, model)


if __name__ == "__main__":
    typer.run(train)
