"""MAGI-1's facts: variants, defaults, limits (spec: magi1, section 1).

A clip is made in chunks of 24 frames, so its length is open: the limit on frames only keeps a request from taking a day.
"""

from typing import Any

from videosdgx.families.spec import FamilySpec, Range, Variant

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


SPEC = FamilySpec(
    name="magi1",
    title="MAGI-1",
    components={
        "text_encoder": ("last_hidden_state",),
        "transformer": ("result", "velocity"),
        "vae": ("video", "latents"),
    },
    default_precision="nvfp4",
    precisions=("fp16", "bf16", "fp8", "nvfp4"),
    variants={
        "demo": DEMO,
        "4.5b-base": _official("4.5b-base", 720, 64),
        # The official examples keep 64 steps with these weights, for which 16 are enough.
        "4.5b-distill": _official("4.5b-distill", 720, 16, DISTILLED_STEPS),
        "4.5b-distill-fp8": _official("4.5b-distill-fp8", 720, 16, DISTILLED_STEPS),
        "24b-base": _official("24b-base", 1280, 32),
        "24b-distill": _official("24b-distill", 1280, 16, DISTILLED_STEPS),
        "24b-distill-fp8": _official("24b-distill-fp8", 1280, 16, DISTILLED_STEPS),
    },
    stateful=("transformer",),
    entry="generate",
)
