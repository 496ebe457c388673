"""Wan 2.1 for planning: which variants there are, and the work of one clip of any of them."""

from functools import cache
from pathlib import Path

from export.checkpoint import reading
from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from export.families.wan21.profiles import SPATIAL, TEMPORAL
from export.planning.engines import engine_memory
from export.planning.torch_part import torch_part
from export.planning.wan21.decoder import decoder_engine, exported
from export.planning.wan21.published import FIGURES
from export.planning.wan21.torch_parts import text_encoder, vae, vae_bytes
from export.planning.wan21.transformer import TOKEN_BYTES, activation_bytes, operations, weights_bytes
from export.planning.work import Bytes, Clip, Family, Part, Request
from videosdgx.families.wan21.architectures import TRANSFORMERS
from videosdgx.families.wan21.spec import SPEC
from videosdgx.home import CHECKOUT

_NOTES = (
    f"wan21: a transformer's working memory is estimated as tokens x {TOKEN_BYTES} x width bytes. A prompt and a negative "
    "prompt are encoded for each clip.",
)


def _source(variant: str) -> Path | None:
    """The checkpoint whose parts tell their own shapes: the demo's. The others are too large to have at hand."""
    return None if variant in TRANSFORMERS else CHECKOUT / SPEC.variants[variant].checkpoint


@cache
def config(variant: str) -> WanConfig:
    """The shape of a variant's transformer."""
    source = _source(variant)
    return WanConfig.from_dict(TRANSFORMERS[variant] if source is None else reading.config(source / "transformer"))


def latent_size(request: Request) -> tuple[int, int, int]:
    """Frames, height and width of the clip's latent."""
    return (request.frames - 1) // TEMPORAL + 1, request.height // SPATIAL, request.width // SPATIAL


def _transformer(request: Request, home: Path) -> Part:
    shape, latent = config(request.variant.name), latent_size(request)
    channels = [1, shape.in_channels, *latent]
    inputs = {"hidden_states": channels, "timestep": [1], "encoder_hidden_states": [1, TEXT_LENGTH, shape.text_dim]}
    weights, activation = engine_memory(home, request, "transformer", request.precision, inputs)
    counted = Bytes(weights_bytes(shape, request.precision), "counted")
    estimated = Bytes(activation_bytes(shape, latent), "estimated")
    return Part(
        component="transformer",
        precision=request.precision,
        weights=weights or counted,
        activation=activation or estimated,
        operations=operations(shape, request.precision, latent, request.attention),
        runs=request.steps * (2 if request.guided else 1),
    )


def clip_work(request: Request, home: Path) -> Clip:
    """All parts of one clip: text encoder (prompt and negative prompt), transformer, VAE.

    Sizes come from the manifests of artifacts for the Spark below `home` where there are any. The VAE is the engine if that
    was exported, as in serving.
    """
    source, latent = _source(request.variant.name), latent_size(request)
    text_precision, vae_precision = (SPEC.component(name).torch["sm121"] for name in ("text_encoder", "vae"))
    text_size, text = text_encoder(source, text_precision)
    prompts = 2 if request.guided else 1
    encoder = torch_part(home, request, "text_encoder", text_precision, text_size, {"prompt": text}, prompts)
    passes = {"decode": vae(source, vae_precision, True, latent)}
    in_torch = torch_part(home, request, "vae", vae_precision, vae_bytes(source, vae_precision), passes, 1)
    manifest = exported(home, request.variant.name)
    engine = decoder_engine(manifest, source, latent)
    used = engine if manifest else in_torch
    return Clip(request, (encoder, _transformer(request, home), used), (in_torch, engine))


FAMILY = Family(SPEC, clip_work, FIGURES, _NOTES)
