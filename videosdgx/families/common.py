"""Rows of the families' tables that several of them share."""

from videosdgx.artifacts import Target
from videosdgx.families.spec import Component, Input, Port

MOST_CHARACTERS = 4_000
MAX_SEED = 2**32 - 1
MAX_STEPS = 100
MAX_GUIDANCE = 30.0
MAX_FPS = 60
RESPONSE_FORMATS = ("mp4", "b64_json", "path", "png")
BY_VARIANT = "as the variant allows"

PROMPT = Input("prompt", "BYTES", "what the video shows", most_characters=MOST_CHARACTERS, required=True)
NEGATIVE_PROMPT = Input("negative_prompt", "BYTES", "what the video must not show", most_characters=MOST_CHARACTERS)
WIDTH = Input("width", "INT32", "width in pixels", limits=BY_VARIANT)
HEIGHT = Input("height", "INT32", "height in pixels", limits=BY_VARIANT)
NUM_FRAMES = Input("num_frames", "INT32", "length in frames", limits=BY_VARIANT, option="--frames")
DURATION = Input("duration", "FP32", "length in seconds, instead of num_frames", limits=BY_VARIANT)
FPS = Input("fps", "INT32", "frames per second", low=1, high=MAX_FPS)
SEED = Input("seed", "INT64", "the same request and seed give the same file; random if left out", low=0, high=MAX_SEED)
STEPS = Input(
    "num_inference_steps", "INT32", "sampling steps: more take longer and look better", low=1, high=MAX_STEPS, option="--steps"
)
GUIDANCE_SCALE = Input("guidance_scale", "FP32", "how closely to follow the prompt", low=0.0, high=MAX_GUIDANCE)
IMAGE = Input("image", "BYTES", "PNG or JPEG that is the first frame", limits="for variants that start from one", file=True)
BACKGROUND = Input(
    "background",
    "BYTES",
    "what lies behind an image or a video where it is transparent",
    limits="a colour such as #rrggbb or white; black if left out",
    most_characters=40,
    colour=True,
    default="black",
)
RESPONSE_FORMAT = Input(
    "response_format",
    "BYTES",
    "how the file comes: as it is (mp4, the default), one frame (png), base64 text (b64_json), a path on the server (path)",
    choices=RESPONSE_FORMATS,
    default="mp4",
)


# What an engine of a transformer can compute in, by target: ONNX Runtime has no bf16 on a CPU.
TRANSFORMER_PRECISIONS: dict[Target, tuple[str, ...]] = {
    "sm121": ("fp16", "bf16", "fp8", "nvfp4"),
    "cpu": ("fp16", "fp8", "nvfp4"),
}


def t5_text_encoder(opener: str) -> Component:
    """A text encoder of T5's kind: published in bf16, and computed in fp32 on a CPU."""
    return Component(
        name="text_encoder",
        inputs=(Port("input_ids", "INT64", (-1, -1)), Port("attention_mask", "INT64", (-1, -1))),
        outputs=(Port("last_hidden_state", "FP32", (-1, -1, -1)),),
        opener=opener,
        torch={"cpu": "fp32", "sm121": "bf16"},
    )
