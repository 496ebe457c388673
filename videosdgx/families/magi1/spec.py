"""MAGI-1's facts: variants, defaults, limits (docs/specs/magi1.md, section 1).

A clip is made in chunks of 24 frames, so its length is open: the limit on frames only keeps a request from taking a day.
"""

from dataclasses import replace
from typing import Any

from videosdgx.families import common
from videosdgx.families.spec import Component, FamilySpec, Input, Port, Range, Variant, by_name

REPOSITORY = "sand-ai/MAGI-1"
# The official encoder comes as pickles, which are never read. This is the same encoder (Google's T5 v1.1 XXL) as safetensors
# in fp32, with its tokenizer; in the folders `text_encoder` and `tokenizer`.
TEXT_ENCODER_REPOSITORY = "PixArt-alpha/PixArt-XL-2-1024-MS"

FPS = 24
WINDOW_SIZE = 4
# Chunks of 24 frames: 40 of them for the demo, 100 s of the others.
_DEMO_FRAMES, _MOST_FRAMES = 40 * FPS, 100 * FPS
# Variants whose prompts are so plain that "then" between two words always begins another prompt (`text.split_then`).
SPLIT_PROMPTS = frozenset({"demo"})
# What a distilled network was trained for.
DISTILLED_STEPS = (8, 12, 16, 32, 64)

# What all variants have in common. Guidance is part of the weights' recipe: nobody chooses its scale, or a negative prompt.
_COMMON: dict[str, Any] = {
    "fps": FPS,
    "num_frames": 4 * FPS,
    "guidance_scale": 1.0,
    "flow_shift": 1.0,
    "sampler": "euler",
    "starts_from": ("image", "video"),
    "window_size": WINDOW_SIZE,
}

DEMO = Variant(
    name="demo",
    checkpoint="export/demo/checkpoints/magi1",
    width=64,
    height=64,
    num_inference_steps=16,
    sides=Range(32, 128, 16),
    frames=Range(1, _DEMO_FRAMES),
    max_pixels=128 * 128 * _DEMO_FRAMES,
    **_COMMON,
)


def _official(name: str, width: int, num_inference_steps: int, step_counts: tuple[int, ...] = ()) -> Variant:
    return Variant(
        name=name,
        checkpoint=REPOSITORY,
        width=width,
        height=720,
        num_inference_steps=num_inference_steps,
        # The rotary table has no meaning for an axis of a single token, hence at least 32; below 256 the picture is poor.
        sides=Range(256, 1280, 16),
        frames=Range(1, _MOST_FRAMES),
        max_pixels=1280 * 720 * _MOST_FRAMES,
        step_counts=step_counts,
        **_COMMON,
    )


LATENT = (-1, -1, -1, -1, -1)  # batch, channels, frames, height, width

COMPONENTS = (
    common.t5_text_encoder("videosdgx.families.parts:open_t5"),
    Component(
        name="transformer",
        inputs=(
            Port("command", "BYTES", (1,)),
            Port("hidden_states", "FP32", LATENT, optional=True),
            Port("timestep", "FP32", (-1,), optional=True),
            Port("encoder_hidden_states", "FP32", (-1, -1), optional=True),
        ),
        outputs=(Port("result", "BYTES", (1,)), Port("velocity", "FP32", LATENT)),
        opener="videosdgx.families.magi1.engine.stateful:open_transformer",
        engine=common.TRANSFORMER_PRECISIONS,
        stateful=True,
        about="A command says what is to be done, and for which generation: see videosdgx/families/magi1/engine/stateful.py.",
    ),
    Component(
        name="vae",
        inputs=(Port("latents", "FP32", LATENT, optional=True), Port("video", "FP32", LATENT, optional=True)),
        outputs=(Port("video", "FP32", LATENT), Port("latents", "FP32", LATENT)),
        opener="videosdgx.families.magi1.components:VAE",
        torch={"cpu": "fp32", "sm121": "fp32"},
        about="Latents are decoded, a video is encoded: one of the two is given.",
    ),
)

# Guidance and a negative prompt are left out: guidance belongs to the weights.
INPUTS = (
    common.PROMPT,
    common.WIDTH,
    common.HEIGHT,
    replace(common.NUM_FRAMES, limits=f"{common.BY_VARIANT}; what the clip begins with counts"),
    common.DURATION,
    replace(common.FPS, limits="the network always moves things as at 24"),
    common.SEED,
    replace(
        common.STEPS,
        limits=f"a multiple of 4 and of window_size; distilled variants take {', '.join(map(str, DISTILLED_STEPS))}",
    ),
    Input(
        "window_size",
        "INT32",
        "chunks in work at once (usually 4); more of them mean fewer steps for the whole clip",
        limits="divides num_inference_steps",
        low=1,
        high=WINDOW_SIZE,
    ),
    common.IMAGE,
    Input(
        "video",
        "BYTES",
        "video that the clip continues; the network sees its last 4 seconds",
        limits="shorter than the clip; not together with image",
        file=True,
    ),
    common.BACKGROUND,
    common.RESPONSE_FORMAT,
)

SPEC = FamilySpec(
    name="magi1",
    title="MAGI-1",
    default_precision="nvfp4",
    components=by_name(COMPONENTS),
    inputs=by_name(INPUTS),
    generate="videosdgx.families.magi1.generate:generate",
    examples=(
        "a red circle moving right then up on a teal background",
        "a white square moving down on a purple background",
        "a yellow triangle moving left then down on a black background",
        "a green circle moving up then right on a gray background",
    ),
    variants=by_name(
        (
            DEMO,
            _official("4.5b-base", 720, 64),
            # The official examples keep 64 steps with these weights, for which 16 are enough.
            _official("4.5b-distill", 720, 16, DISTILLED_STEPS),
            _official("4.5b-distill-fp8", 720, 16, DISTILLED_STEPS),
            _official("24b-base", 1280, 32),
            _official("24b-distill", 1280, 16, DISTILLED_STEPS),
            _official("24b-distill-fp8", 1280, 16, DISTILLED_STEPS),
        )
    ),
)
