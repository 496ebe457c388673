"""The ranges of shapes that MAGI-1's engines are compiled for."""

from collections.abc import Sequence

from export.families.magi1.config import CHUNK_FRAMES, PATCH, MagiConfig
from videosdgx.artifacts import Profile
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.spec import Variant

SPATIAL = 8  # pixels per latent
MOST_PAST = 4  # chunks before the one that runs: the key ranges span five, itself included (docs/specs/magi1.md, section 4.1)
_USUAL_TEXT = 200  # tokens of a text, most of the time


def tokens(width: int, height: int) -> int:
    """Tokens of a chunk of `width` x `height` pixels."""
    return CHUNK_FRAMES * (height // SPATIAL // PATCH) * (width // SPATIAL // PATCH)


def cache_bytes(config: MagiConfig, width: int, height: int, item: int) -> int:
    """Bytes of the keys and values of one chunk in all layers; `item` bytes a number."""
    return tokens(width, height) * 2 * config.kv_size * config.num_layers * item


def _shapes(config: MagiConfig, width: int, height: int, past: int, text: int) -> dict[str, list[int]]:
    """Shapes of all inputs of the chunk's graph whose shapes vary, with `past` chunks before it and `text` tokens of text."""
    heads = [config.num_query_groups, 2 * config.attention_head_dim]
    own = tokens(width, height)
    shapes = {
        graphs.HIDDEN_STATES: [1, config.latent_channels, CHUNK_FRAMES, height // SPATIAL, width // SPATIAL],
        graphs.POSITIONS: [own, 3],
        graphs.TEXT_KV: [config.num_layers, text, *heads],
    }
    return shapes | {graphs.past_input(layer): [past * own, *heads] for layer in range(config.num_layers)}


def chunk_profiles(config: MagiConfig, variant: Variant, resolutions: Sequence[tuple[int, int]], item: int) -> list[Profile]:
    """One profile for each resolution (width, height), by default the variant's own; the demo has one over all its sizes.

    `item` is the bytes of a number in the cache. A profile reaches from no chunk before the one that runs to `MOST_PAST`.
    """
    longest = config.caption_max_length
    usual = min(_USUAL_TEXT, longest)
    low, high = variant.sides.low, variant.sides.high
    if variant.name == "demo" and not resolutions:
        return [
            Profile(
                name=f"{low}x{low} to {high}x{high}",
                min=_shapes(config, low, low, 0, 1),
                opt=_shapes(config, variant.width, variant.height, MOST_PAST, usual),
                max=_shapes(config, high, high, MOST_PAST, longest),
                cache_bytes=cache_bytes(config, high, high, item),
            )
        ]
    return [
        Profile(
            name=f"{width}x{height}",
            min=_shapes(config, width, height, 0, 1),
            opt=_shapes(config, width, height, MOST_PAST, usual),
            max=_shapes(config, width, height, MOST_PAST, longest),
            cache_bytes=cache_bytes(config, width, height, item),
        )
        for width, height in resolutions or [(variant.width, variant.height)]
    ]


def text_profiles(config: MagiConfig) -> list[Profile]:
    """One profile over all lengths of a text."""

    def shapes(length: int) -> dict[str, list[int]]:
        return {graphs.ENCODER_HIDDEN_STATES: [length, config.caption_channels]}

    longest = config.caption_max_length
    return [Profile(name="text", min=shapes(1), opt=shapes(min(_USUAL_TEXT, longest)), max=shapes(longest))]
