"""What the MAGI-1 demo is judged on: clips of combinations that its training never saw (see `export.demo.evaluate`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch

from export.demo.checkpoint import load_magi1
from export.demo.judging import Judging
from export.demo.magi1 import judge, train_vae, world
from export.demo.magi1.judge import Verdict
from export.demo.magi1.world import CHUNK_FRAMES, Story
from export.demo.world import Floats
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


def judge_clips(pipe: MagiPipeline, clips: int) -> Mapping[str, int]:
    """How many of so many clips are right, property by property; "looks" is colour, shape and background at once."""
    return _counts(judge_all(pipe, unseen_stories(clips)))


def judge_continued(pipe: MagiPipeline, clips: int) -> Mapping[str, int]:
    """The same of rendered videos of two chunks that are continued by a third."""
    plain = [story for story in unseen_stories(2 * clips) if len(story.motions) == 1]
    return _counts([judge.judge(go_on(pipe, story, 1000 + index), story) for index, story in enumerate(plain)])


def _counts(verdicts: Sequence[Verdict]) -> Mapping[str, int]:
    return {name: count for name, count in asdict(judge.success(verdicts)).items() if name != "clips"}


def judge_parts(pipe: MagiPipeline) -> Mapping[str, float]:
    """The VAE alone: PSNR in dB of rendered tiles there and back, and the share of shapes that are recognised."""
    mean, least, kept = vae_quality(pipe)
    return {"VAE alone, mean PSNR (dB)": mean, "VAE alone, least PSNR (dB)": least, "VAE alone, shapes kept (%)": 100 * kept}


JUDGING = Judging(
    load=load_magi1,
    about=f"{CHUNKS} chunks, {STEPS} steps",
    clips=judge_clips,
    continued=judge_continued,
    parts=judge_parts,
    bars={"looks": 90, "motion": 85},
    lost={name: {"fp8": 3, "nvfp4": 6} for name in ("looks", "motion")},
    least={"VAE alone, mean PSNR (dB)": 32.0},
    threads=1,
    export_clips=4,
)
