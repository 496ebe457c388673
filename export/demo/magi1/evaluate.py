"""Count how often the MAGI-1 demo shows what its prompt says: `python -m export.demo.magi1.evaluate`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from export.demo.checkpoint import MAGI1, load_magi1
from export.demo.magi1 import judge, train_vae, world
from export.demo.magi1.judge import Verdict
from export.demo.magi1.world import CHUNK_FRAMES, Story
from export.demo.world import Floats
from export.families.magi1.pipeline import by_engine
from videosdgx.artifacts import verify
from videosdgx.families.magi1.pipeline import MagiPipeline

CHUNKS = 4
STEPS = 16
_SEED = 1  # of the stories


def unseen_stories(count: int) -> list[Story]:
    """`count` stories of combinations that training never saw, the same on every call.

    Every second one has two motions, the other axis before or after the held-out one.
    """
    _, held_out = world.split()
    rng = np.random.default_rng(_SEED)
    order = [held_out[index] for index in rng.permutation(len(held_out))]
    stories = []
    for index in range(count):
        seen = order[index % len(order)]
        motions: tuple[str, ...] = (seen.motion,)
        if index % 2:
            others = [motion for motion in world.MOTIONS if world.axis(motion) != world.axis(seen.motion)]
            other = str(rng.choice(others))
            motions = (seen.motion, other) if rng.random() < 0.5 else (other, seen.motion)
        stories.append(Story(seen.colour, seen.shape, seen.background, motions))
    return stories


def generate(pipe: MagiPipeline, story: Story, seed: int, steps: int = STEPS, chunks: int = CHUNKS) -> Floats:
    """One clip [24 * chunks, 64, 64, 3] in 0..1 of a story's caption."""
    (clip,) = pipe(
        world.caption(story),
        height=world.SIZE,
        width=world.SIZE,
        num_frames=CHUNK_FRAMES * chunks,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
    ).frames
    return np.asarray(clip)


def go_on(pipe: MagiPipeline, story: Story, seed: int, steps: int = STEPS, chunks: int = 3) -> Floats:
    """A clip whose first two chunks are rendered, and given to the pipeline as a video; `story` has one motion."""
    rng = np.random.default_rng(seed)
    given = world.render(story, [story.motions[0]] * 2, rng)
    (clip,) = pipe(
        world.caption(story),
        video=np.round(given * 255).astype(np.uint8),
        height=world.SIZE,
        width=world.SIZE,
        num_frames=CHUNK_FRAMES * chunks,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
    ).frames
    return np.asarray(clip)


def vae_quality(pipe: MagiPipeline, tiles: int = 100) -> tuple[float, float, float]:
    """Of rendered tiles of held-out combinations, through the VAE and back: mean and least PSNR in dB, share of shapes kept."""
    rendered = train_vae.draw(world.split()[1], tiles, np.random.default_rng(0))
    quality = train_vae.psnr(pipe.vae, rendered)
    return float(quality.mean()), float(quality.min()), train_vae.recognised(pipe.vae, rendered)


def judge_all(pipe: MagiPipeline, stories: Sequence[Story], steps: int = STEPS) -> list[Verdict]:
    """Generate and judge a clip of each story; story i starts from the noise of seed i."""
    return [judge.judge(generate(pipe, story, index, steps), story) for index, story in enumerate(stories)]


def evaluate(
    clips: Annotated[int, typer.Option(help="How many unseen prompts, half of them with 'then'.")] = 100,
    continued: Annotated[int, typer.Option(help="How many rendered videos of two chunks to continue.")] = 20,
    steps: Annotated[int, typer.Option(help="Denoising steps, a multiple of 4.")] = STEPS,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder.")] = MAGI1,
    engine: Annotated[
        Path | None,
        typer.Option(help="An exported transformer to judge instead, such as home/artifacts/magi1/demo/transformer/nvfp4-cpu."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Generate clips of 4 chunks of unseen combinations, judge them, and print how many are right.

    In fp32, or with the transformer of --engine as it is served: quantized, on ONNX Runtime. The same prompts and noise.
    """
    torch.set_num_threads(1)
    pipe = load_magi1(checkpoint)
    plain = [story for story in unseen_stories(2 * continued) if len(story.motions) == 1]
    with by_engine(pipe, engine, verify(engine), threads=1) if engine else nullcontext():
        began = time.monotonic()
        result = judge.success(judge_all(pipe, unseen_stories(clips), steps))
        seconds = (time.monotonic() - began) / clips
        followed = [judge.judge(go_on(pipe, story, 1000 + index, steps), story) for index, story in enumerate(plain)]
    on = judge.success(followed) if followed else None
    mean, least, kept = vae_quality(pipe)
    if as_json:
        figures = {"steps": steps, "seconds_per_clip": round(seconds, 2), "continued": asdict(on) if on else None}
        quality = {"vae_psnr_db": round(mean, 2), "vae_psnr_least_db": round(least, 2), "vae_shapes_kept": kept}
        print(json.dumps(asdict(result) | figures | quality))
        return
    kind = engine.name if engine else "fp32"
    table = Table(title=f"magi1 in {kind}: unseen prompts, {CHUNKS} chunks, {steps} steps, {seconds:.1f} s per clip")
    table.add_column("right")
    table.add_column(f"of {clips}", justify="right")
    table.add_column(f"of {len(plain)} continued", justify="right")
    for name in (*judge.PROPERTIES, "looks", "everything"):
        table.add_row(name, str(getattr(result, name)), str(getattr(on, name)) if on else "")
    Console().print(table)
    Console().print(
        f"VAE alone, rendered unseen tiles there and back: {mean:.2f} dB (least {least:.2f}), {kept:.0%} of shapes kept"
    )


if __name__ == "__main__":
    typer.run(evaluate)
