"""MAGI-1 for planning: which variants there are, and the work of one clip of any of them."""

from collections import Counter
from functools import cache
from pathlib import Path

from export.checkpoint import reading
from export.planning.engines import engine_memory
from export.planning.magi1.published import FIGURES
from export.planning.magi1.torch_parts import decode_chunk, spatial_ratio, text_encoder, vae_bytes
from export.planning.magi1.transformer import CHUNK_WIDTH, SEEN_CHUNKS, TEXT_TOKENS, Shape
from export.planning.torch_part import torch_part
from export.planning.work import Bytes, Clip, Family, Part, Request
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.engine.graphs import HIDDEN_STATES
from videosdgx.families.magi1.engine.stateful import SLOTS
from videosdgx.families.magi1.sampling.guidance import BaseGuidance, DistilledGuidance, guidance_of
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule
from videosdgx.families.magi1.spec import SPEC
from videosdgx.home import CHECKOUT

FRAMES_PER_LATENT = 4
_TEXT_PRECISION, _VAE_PRECISION = (SPEC.component(name).torch["sm121"] for name in ("text_encoder", "vae"))
_TEXTS = 1  # no negative prompt is ever encoded

_NOTES = (
    "magi1: a run is one chunk's forward, which sees 0 to 4 chunks before it (mean); what has no influence on the result is "
    "not run. Its working memory is estimated as tokens x the larger of what attention and the MLP need, attention with the "
    f"keys and values of {SEEN_CHUNKS} chunks. Kept: keys and values of chunks x bytes of one, however long the clip is. "
    f"{TEXT_TOKENS} tokens of text.",
)


def _source(variant: str) -> Path | None:
    """The checkpoint whose parts tell their own shapes: the demo's. The others are too large to have at hand."""
    return None if variant in TRANSFORMERS else CHECKOUT / SPEC.variants[variant].checkpoint


@cache
def shape(variant: str) -> Shape:
    """A variant's transformer without weights."""
    source = _source(variant)
    return Shape(TRANSFORMERS[variant] if source is None else reading.config(source / "transformer"))


def chunks_of(frames: int) -> int:
    """Chunks of a clip that starts from text; what is too long of the last one is cut."""
    return -(-frames // (FRAMES_PER_LATENT * CHUNK_WIDTH))


def chunk_forwards(
    schedule: ChunkSchedule, guidance: BaseGuidance | DistilledGuidance, guided: bool = True, every: bool = False
) -> Counter[int]:
    """How many forwards of one chunk a clip takes, by the number of chunks before it that they see.

    Args:
        schedule: of the clip.
        guidance: of the weights. Distilled ones need one evaluation an update, and a second one of the oldest chunk when it
            is nearly clean.
        guided: for base models; else one evaluation an update.
        every: count also those that have no influence, as the original does them.
    """
    found: Counter[int] = Counter()
    for update in schedule.updates():
        evaluations = 1
        if isinstance(guidance, BaseGuidance) and guided:
            evaluations += every or any(guidance.needs_text(time) for time in update.before)
        if update.refresh is not None:
            found[0] += evaluations
        for chunk, time, chunk_range in zip(update.chunks, update.before, update.ranges, strict=True):
            found[chunk - chunk_range[0]] += evaluations
            if isinstance(guidance, BaseGuidance):
                again = guided and (every or guidance.needs_alone(time))
            else:
                late = time > guidance.threshold if every else guidance.needs_alone(time, chunk_range)
                again = chunk == update.chunks.start and late
            found[0] += again
    return found


def _transformer(request: Request, home: Path, height: int, width: int) -> Part:
    network, variant = shape(request.variant.name), request.variant
    tokens = network.tokens(height, width)
    schedule = ChunkSchedule(request.steps, variant.window_size, chunks_of(request.frames))
    forwards = chunk_forwards(schedule, guidance_of(network.model.config), request.guided)
    runs = sum(forwards.values())
    inputs = {HIDDEN_STATES: [1, network.model.latent_channels, CHUNK_WIDTH, height, width]}
    weights, activation = engine_memory(home, request, "transformer", request.precision, inputs)
    return Part(
        component="transformer",
        precision=request.precision,
        weights=weights or Bytes(network.weights_bytes(request.precision), "counted"),
        activation=activation or Bytes(network.activation_bytes(request.precision, tokens), "estimated"),
        operations=network.chunk_operations(
            request.precision, tokens, {past: number / runs for past, number in forwards.items()}, request.attention
        ),
        runs=runs,
        kept=network.kept(tokens, SLOTS),
    )


def clip_work(request: Request, home: Path) -> Clip:
    """All parts of one clip that starts from text: text encoder (one prompt), transformer and VAE (chunk by chunk).

    Sizes come from the manifests of artifacts for the Spark below `home` where there are any.
    """
    source = _source(request.variant.name)
    ratio = spatial_ratio(source)
    height, width = request.height // ratio, request.width // ratio
    text_size, text = text_encoder(source, _TEXT_PRECISION)
    decoding = decode_chunk(source, _VAE_PRECISION, height, width)
    chunks = chunks_of(request.frames)
    return Clip(
        request,
        (
            torch_part(home, request, "text_encoder", _TEXT_PRECISION, text_size, {"prompt": text}, _TEXTS),
            _transformer(request, home, height, width),
            torch_part(home, request, "vae", _VAE_PRECISION, vae_bytes(source, _VAE_PRECISION), {"decode": decoding}, chunks),
        ),
    )


FAMILY = Family(SPEC, clip_work, FIGURES, _NOTES)
