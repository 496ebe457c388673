"""Wan 2.1's facts: variants, defaults, limits (sources: the official repository's configurations, diffusers 0.42.1)."""

from videosdgx.families import common
from videosdgx.families.spec import Component, FamilySpec, Port, Range, Variant, by_name

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


_NO_IMAGE_ENCODER = "image to video needs an image encoder, which is neither exported nor served yet; use a t2v variant"


def _official(name: str, repository: str, lacks: str = "", **changes: float) -> Variant:
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
        lacks=lacks,
        **facts,  # type: ignore[arg-type]
    )


LATENT = (-1, -1, -1, -1, -1)  # batch, channels, frames, height, width

COMPONENTS = (
    common.t5_text_encoder("videosdgx.families.parts:open_umt5"),
    Component(
        name="transformer",
        inputs=(
            Port("hidden_states", "FP32", LATENT),
            Port("timestep", "FP32", (-1,)),
            Port("encoder_hidden_states", "FP32", (-1, -1, -1)),
        ),
        outputs=(Port("sample", "FP32", LATENT),),
        opener="videosdgx.engines.engine:open_engine",
        engine=common.TRANSFORMER_PRECISIONS,
    ),
    Component(
        name="vae",
        inputs=(Port("latents", "FP32", LATENT),),
        outputs=(Port("video", "FP32", LATENT),),
        opener="videosdgx.families.wan21.components:open_vae",
        torch={"cpu": "fp32", "sm121": "fp32"},
        engine={"sm121": ("fp16", "bf16")},
    ),
)

INPUTS = (
    common.PROMPT,
    common.NEGATIVE_PROMPT,
    common.WIDTH,
    common.HEIGHT,
    common.NUM_FRAMES,
    common.DURATION,
    common.FPS,
    common.SEED,
    common.STEPS,
    common.GUIDANCE_SCALE,
    common.IMAGE,
    common.BACKGROUND,
    common.RESPONSE_FORMAT,
)

SPEC = FamilySpec(
    name="wan21",
    title="Wan 2.1",
    default_precision="fp8",
    components=by_name(COMPONENTS),
    inputs=by_name(INPUTS),
    generate="videosdgx.families.wan21.pipeline:generate",
    examples=(
        "a red circle moving right on a teal background",
        "a white square growing on a purple background",
        "a yellow triangle moving up on a black background",
        "a blue square moving left on a gray background",
    ),
    variants=by_name(
        (
            DEMO,
            # The 1.3B model asks for more guidance and a larger shift than the 14B one (official README).
            _official("t2v-1.3b", "Wan2.1-T2V-1.3B-Diffusers", guidance_scale=6.0, flow_shift=8.0),
            _official("t2v-14b", "Wan2.1-T2V-14B-Diffusers", max_pixels=1280 * 720 * 81),
            _official("i2v-14b-480p", "Wan2.1-I2V-14B-480P-Diffusers", _NO_IMAGE_ENCODER, num_inference_steps=40),
            _official(
                "i2v-14b-720p",
                "Wan2.1-I2V-14B-720P-Diffusers",
                _NO_IMAGE_ENCODER,
                width=1280,
                height=720,
                num_inference_steps=40,
                flow_shift=5.0,
                max_pixels=1280 * 720 * 81,
            ),
        )
    ),
)
