"""The ranges of shapes that Wan 2.1's engines are compiled for."""

from collections.abc import Sequence

from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from videosdgx.artifacts import Profile
from videosdgx.families.spec import Variant

SPATIAL, TEMPORAL = 8, 4  # pixels and frames per latent (the first frame is alone)
IMAGE_TOKENS = 257  # CLIP's, for I2V
_DEMO_BATCH = 2  # both branches of guidance at once


def _shapes(config: WanConfig, batch: int, frames: int, height: int, width: int) -> dict[str, list[int]]:
    """Shapes of all inputs for a clip of `frames` x `height` x `width` pixels."""
    latent = [batch, config.in_channels, (frames - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL]
    shapes = {"hidden_states": latent, "timestep": [batch], "encoder_hidden_states": [batch, TEXT_LENGTH, config.text_dim]}
    if config.image_dim is not None:
        shapes["encoder_hidden_states_image"] = [batch, IMAGE_TOKENS, config.image_dim]
    return shapes


def profiles(
    config: WanConfig, variant: Variant, resolutions: Sequence[tuple[int, int]] = (), frames: int | None = None
) -> list[Profile]:
    """One profile for each resolution (width, height), from one frame to `frames`; by default the variant's own.

    The demo has one profile over everything that it makes. The pipeline calls a published model with batch 1, first with
    the prompt and then without.
    """
    low, high = variant.sides.low, variant.sides.high
    if variant.name == "demo" and not resolutions:
        return [
            Profile(
                name=f"{low}x{low}x{variant.frames.low} to {high}x{high}x{variant.frames.high}",
                min=_shapes(config, 1, variant.frames.low, low, low),
                opt=_shapes(config, 1, variant.num_frames, variant.height, variant.width),
                max=_shapes(config, _DEMO_BATCH, variant.frames.high, high, high),
            )
        ]
    most = frames or variant.num_frames
    return [
        Profile(
            name=f"{width}x{height}x{most}",
            min=_shapes(config, 1, 1, height, width),
            opt=_shapes(config, 1, most, height, width),
            max=_shapes(config, 1, most, height, width),
        )
        for width, height in resolutions or [(variant.width, variant.height)]
    ]
