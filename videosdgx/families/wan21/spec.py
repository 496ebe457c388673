"""Wan 2.1's facts: variants, defaults, limits (sources: the official repository's configurations, diffusers 0.42.1)."""

from videosdgx.families.spec import FamilySpec, Range, Variant

# The official code passes its (Chinese) list of defects when no negative prompt is given; this names the same defects.
NEGATIVE_PROMPT = (
    "overexposed, static, blurred details, subtitles, painting, grey overall, low quality, JPEG artifacts, ugly, "
    "deformed, extra fingers, badly drawn hands, badly drawn face, fused fingers, still picture, cluttered background"
)

DEMO = Variant(
    name="demo",
    checkpoint="export/demo/checkpoints/wan21",
    width=64,
    height=64,
    num_frames=9,
    fps=8,
    num_inference_steps=20,
    guidance_scale=3.0,
    flow_shift=3.0,
    sides=Range(32, 128, 16),
    frames=Range(1, 17, 4),
    max_pixels=128 * 128 * 17,
)


def _official(name: str, repository: str, **changes: float) -> Variant:
    facts = {
        "width": 832, "height": 480, "num_frames": 81, "fps": 16, "num_inference_steps": 50, "guidance_scale": 5.0,
        "flow_shift": 3.0, "max_pixels": 832 * 480 * 81,
    } | changes  # fmt: skip
    return Variant(
        name=name,
        checkpoint=f"Wan-AI/{repository}",
        sides=Range(256, 1280, 16),
        frames=Range(1, 81, 4),
        negative_prompt=NEGATIVE_PROMPT,
        **facts,  # type: ignore[arg-type]
    )


SPEC = FamilySpec(
    name="wan21",
    title="Wan 2.1",
    components={"text_encoder": ("last_hidden_state",), "transformer": ("sample",), "vae": ("video",)},
    default_precision="fp8",
    precisions=("fp16", "bf16", "fp8", "nvfp4"),
    decoder_precisions=("fp16", "bf16"),
    variants={
        "demo": DEMO,
        # The 1.3B model asks for more guidance and a larger shift than the 14B one (official README).
        "t2v-1.3b": _official("t2v-1.3b", "Wan2.1-T2V-1.3B-Diffusers", guidance_scale=6.0, flow_shift=8.0),
        "t2v-14b": _official("t2v-14b", "Wan2.1-T2V-14B-Diffusers", max_pixels=1280 * 720 * 81),
        "i2v-14b-480p": _official("i2v-14b-480p", "Wan2.1-I2V-14B-480P-Diffusers", num_inference_steps=40),
        "i2v-14b-720p": _official(
            "i2v-14b-720p",
            "Wan2.1-I2V-14B-720P-Diffusers",
            width=1280,
            height=720,
            num_inference_steps=40,
            flow_shift=5.0,
            max_pixels=1280 * 720 * 81,
        ),
    },
)
