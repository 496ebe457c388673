"""Wan 2.1 for planning: which variants there are, and the work of one clip of any of them."""

from functools import cache
from pathlib import Path

from export.checkpoint import reading
from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from export.families.wan21.profiles import SPATIAL, TEMPORAL
from export.planning.engines import engine_memory
from export.planning.torch_part import torch_part
from export.planning.wan21.decoder import decoder_engine, exported
from export.planning.wan21.torch_parts import image_encoder, text_encoder, vae, vae_bytes
from export.planning.wan21.transformer import activation_bytes, operations, weights_bytes
from export.planning.work import Bytes, Clip, Part, Request
from export.run.components import PRECISIONS
from videosdgx.families.wan21.architectures import TRANSFORMERS
from videosdgx.families.wan21.spec import SPEC
from videosdgx.home import CHECKOUT

_IMAGE_ENCODER_PRECISION = "bf16"

NOTES = (
    "wan21: a transformer's working memory is estimated as tokens x the larger of 26 x width and 4 x (width + FFN width) "
    "bytes, in NVFP4 an FFN width more. A prompt and a negative prompt are encoded for each clip.",
)

VARIANTS = {name: SPEC.variants[name] for name in ("demo", *TRANSFORMERS)}


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
    """All parts of one clip: text encoder (prompt and negative prompt), transformer, VAE, for I2V also CLIP.

    Sizes come from the manifests of artifacts for the Spark below `home` where there are any. The VAE is the engine if that
    was exported, as in serving.
    """
    source, latent = _source(request.variant.name), latent_size(request)
    text_precision, vae_precision = PRECISIONS["text_encoder", "sm121"], PRECISIONS["vae", "sm121"]
    from_image = config(request.variant.name).image_dim is not None
    text_size, text = text_encoder(source, text_precision)
    prompts = 2 if request.guided else 1
    parts = [torch_part(home, request, "text_encoder", text_precision, text_size, {"prompt": text}, prompts)]
    passes = {"decode": vae(source, vae_precision, True, latent)}
    if from_image:
        image_size, image = image_encoder(_IMAGE_ENCODER_PRECISION)
        parts.append(torch_part(home, request, "image_encoder", _IMAGE_ENCODER_PRECISION, image_size, {"image": image}, 1))
        passes["encode"] = vae(source, vae_precision, False, latent)
    parts.append(_transformer(request, home))
    in_torch = torch_part(home, request, "vae", vae_precision, vae_bytes(source, vae_precision), passes, 1)
    if from_image:  # its VAE encodes too
        return Clip(request, (*parts, in_torch))
    manifest = exported(home, request.variant.name)
    engine = decoder_engine(manifest, source, latent)
    used = engine if manifest else in_torch
    return Clip(request, (*parts, used), (in_torch, engine))
