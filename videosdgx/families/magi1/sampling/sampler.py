"""The sampling loop: chunk after chunk becomes clean and is given out (docs/specs/magi1.md, sections 4 to 8).

Only what later updates can need is kept: the chunks in work, and the clean chunks that those see. So memory does not grow
with the length of the video, if `noise` and `text` make things as they are asked for.

Prefix frames (of an image or a video) overwrite the input of every evaluation. In the original the update then moves them
too, and the last one is not undone: the latents given out hold prefix + v dt. So does `reference_behaviour`; otherwise they
hold the prefix as given.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from videosdgx.families.magi1.network.cache import CacheMissing, KeyValueCache
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.sampling.guidance import BASE_GUIDANCE, BaseGuidance, DistilledGuidance
from videosdgx.families.magi1.sampling.schedule import CHUNK_WIDTH, ChunkSchedule, Update, step_size

CLEAN_TIME = 0.9999
_ATTEMPTS = 3  # to refill a cache that is lost again and again


class MagiTransformer(Protocol):
    """What the sampler asks of a network: `LocalTransformer` here, or a stand-in for one that runs elsewhere."""

    def encode_text(self, encoder_hidden_states: Tensor) -> Any:
        """Something that stands for the keys and values of a text, from its kept positions [n, caption_channels]."""
        ...

    def evaluate(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Sequence[Any],
        *,
        first_chunk: int,
        ranges: Sequence[tuple[int, int]],
        has_text: bool,
        step_size: float | None = None,
        store: bool = False,
    ) -> Tensor:
        """As `MagiTransformer3DModel.evaluate`; with `store` the keys and values of the one chunk given stay.

        Raises:
            CacheMissing: a chunk in range is neither given nor stored.
        """
        ...

    def release(self) -> None:
        """Drop all keys and values."""
        ...


class LocalTransformer:
    """A network of this process with a cache that is made at its first evaluation."""

    def __init__(self, model: MagiTransformer3DModel, slots: int = 5):
        """`slots`: chunks in the cache, see `ChunkSchedule.slots`."""
        self._model, self._slots = model, slots
        self._cache: KeyValueCache | None = None

    @torch.no_grad()
    def encode_text(self, encoder_hidden_states: Tensor) -> Tensor:
        """[L, n, G, 2d]."""
        return self._model.encode_text(encoder_hidden_states.to(self._model.device))

    def evaluate(
        self, hidden_states: Tensor, timestep: Tensor, text: Sequence[Tensor], *, store: bool = False, **options: Any
    ) -> Tensor:
        """The velocity on the CPU, fp32."""
        model = self._model
        if self._cache is None:
            frames, height, width = hidden_states.shape[2:]
            self._cache = model.new_cache(height, width, frames // len(text), self._slots)
        latents, times = hidden_states.to(model.device), timestep.to(model.device)
        return model.evaluate(latents, times, text, cache=self._cache, store=int(store), **options).float().cpu()

    def release(self) -> None:
        """Free the cache."""
        self._cache = None


@dataclass(frozen=True)
class Conditions:
    """What a video is made from.

    Attributes:
        text: kept positions [n, C] fp32 of a chunk's text; asked once for each generated chunk, in their order.
        null: those of "no text".
        noise: [1, C, 6, h, w] fp32 of a chunk; likewise.
        prefix: latents [1, C, P, h, w] that the video begins with, scaled; P may end inside a chunk, but not the last one.
    """

    text: Callable[[int], Tensor]
    null: Tensor
    noise: Callable[[int], Tensor]
    prefix: Tensor | None = None


@dataclass(frozen=True)
class Done:
    """An update that is done: the velocity, and the latents after it, of the chunks in work, [1, C, 6 R, h, w]."""

    update: Update
    velocity: Tensor
    latents: Tensor


def whole_chunks(prefix: Tensor | None) -> int:
    """How many chunks the prefix fills entirely."""
    return 0 if prefix is None else prefix.shape[2] // CHUNK_WIDTH


def with_prefix(latents: Tensor, chunk: int, prefix: Tensor | None) -> Tensor:
    """`latents` [1, C, 6, h, w] of a chunk, its first frames replaced by those of the prefix that fall into it."""
    if prefix is None:
        return latents
    given = prefix[:, :, chunk * CHUNK_WIDTH : (chunk + 1) * CHUNK_WIDTH].to(latents.dtype)
    return torch.cat([given, latents[:, :, given.shape[2] :]], dim=2)


@dataclass
class ChunkSampler:
    """Makes the clean latents of one video.

    Args:
        transformer: evaluates; its keys and values are released at the end, however it comes.
        schedule: `first_chunk` must be the number of whole chunks of the prefix.
        conditions: text, noise and prefix.
        guidance: of base models, or of distilled ones, which are told the step size and evaluated once.
        clean_time: of chunks that are clean already.
        reference_behaviour: see the top of the file.
        on_update: is called after every update; an exception from it ends the generation.
    """

    transformer: MagiTransformer
    schedule: ChunkSchedule
    conditions: Conditions
    guidance: BaseGuidance | DistilledGuidance = BASE_GUIDANCE
    clean_time: float = CLEAN_TIME
    reference_behaviour: bool = False
    on_update: Callable[[Done], None] = lambda done: None
    _latents: dict[int, Tensor] = field(default_factory=dict)  # of chunks in work, and of clean ones in range
    _texts: dict[int, Any] = field(default_factory=dict)
    _null: Any = None

    def __post_init__(self) -> None:
        if whole_chunks(self.conditions.prefix) != self.schedule.first_chunk:
            raise ValueError(
                f"the prefix fills {whole_chunks(self.conditions.prefix)} chunks, not {self.schedule.first_chunk} as scheduled"
            )

    def run(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index and the clean latents [1, C, 6, h, w] fp32 of each generated chunk, right after its last update."""
        try:
            self._null = self.transformer.encode_text(self.conditions.null)
            self._store_prefix()
            for update in self.schedule.updates():
                velocity = self._velocity(update)
                latents = self._step(update, velocity)
                self.on_update(Done(update, velocity, latents))
                if update.finished is not None:
                    del self._texts[update.finished]
                    yield update.finished, self._finished(update.finished)
        finally:
            self._latents.clear()
            self._texts.clear()
            self.transformer.release()

    # Chunks ----------------------------------------------------------------------------------------------------------

    def _store_prefix(self) -> None:
        """Keys and values of the whole prefix chunks that the first update sees (more, if clean chunks see each other)."""
        first = self.schedule.first_chunk
        needed = max(0, first + 1 - self.schedule.slots) if self.schedule.key_ranges.clean == 1 else 0
        for chunk in range(needed, first):
            self._store(chunk)

    def _clean(self, chunk: int) -> Tensor:
        """Latents of a clean chunk as the network gets them."""
        prefix = self.conditions.prefix
        if prefix is not None and chunk < self.schedule.first_chunk:
            # In the prefix's own dtype: the original scales it (24B) before it is widened.
            return prefix[:, :, chunk * CHUNK_WIDTH : (chunk + 1) * CHUNK_WIDTH]
        return with_prefix(self._latents[chunk], chunk, prefix)

    def _finished(self, chunk: int) -> Tensor:
        latents = self._latents[chunk]
        return latents if self.reference_behaviour else with_prefix(latents, chunk, self.conditions.prefix)

    def _enter(self, update: Update) -> None:
        """Get what a chunk that is new in the window starts from, and forget what no chunk can see any more."""
        for chunk in update.chunks:
            if chunk not in self._latents:
                self._latents[chunk] = self.conditions.noise(chunk).float()
                self._texts[chunk] = self.transformer.encode_text(self.conditions.text(chunk))
        # With a small window a chunk that enters sees more than the one before it did at its end.
        oldest = update.chunks.stop - self.schedule.slots
        for chunk in [chunk for chunk in self._latents if chunk < oldest]:
            del self._latents[chunk]

    def _step(self, update: Update, velocity: Tensor) -> Tensor:
        """Euler's step from the input that was evaluated, in fp32; each chunk with its own times."""
        before, after = (torch.tensor(times, dtype=torch.float32) for times in (update.before, update.after))
        steps = (after - before).repeat_interleave(CHUNK_WIDTH)[None, None, :, None, None]
        latents = self._input(update.chunks) + velocity * steps
        self._latents |= zip(update.chunks, latents.split(CHUNK_WIDTH, dim=2), strict=True)
        return latents

    def _input(self, chunks: range) -> Tensor:
        prefix = self.conditions.prefix
        return torch.cat([with_prefix(self._latents[chunk], chunk, prefix) for chunk in chunks], dim=2)

    # Evaluations -----------------------------------------------------------------------------------------------------

    @property
    def _distilled(self) -> bool:
        return isinstance(self.guidance, DistilledGuidance)

    def _velocity(self, update: Update) -> Tensor:
        """[1, C, 6 R, h, w] of the chunks in work."""
        self._enter(update)
        if isinstance(self.guidance, DistilledGuidance):
            return self._distilled_velocity(update, self.guidance)
        return self._base_velocity(update, self.guidance)

    def _base_velocity(self, update: Update, guidance: BaseGuidance) -> Tensor:
        latents, times = self._input(update.chunks), update.before
        with_text: Sequence[Tensor | None] = [None] * len(times)
        if any(guidance.needs_text(time) for time in times):
            texts = [self._texts[chunk] for chunk in update.chunks]
            ranges, inputs, all_times = update.ranges, latents, times
            if update.refresh is not None:
                # Here, and in this evaluation only, the clean chunk's keys are made with the flag "has text".
                texts = [self._null, *texts]
                ranges = (self.schedule.key_ranges.of_clean(update.refresh), *ranges)
                inputs = torch.cat([self._clean(update.refresh), inputs], dim=2)
                all_times = (self.clean_time, *times)
            first = update.chunks.start - len(texts) + len(update.chunks)
            conditional = self._evaluate(inputs, all_times, texts, first, ranges, has_text=True)
            with_text = conditional.split(CHUNK_WIDTH, dim=2)[-len(times) :]
        if update.refresh is not None:
            self._store(update.refresh)
        nulls = [self._null] * len(times)
        without_text = self._evaluate(latents, times, nulls, update.chunks.start, update.ranges, has_text=False)
        alone = self._alone(update, latents, guidance)
        parts = zip(times, with_text, without_text.split(CHUNK_WIDTH, dim=2), alone, strict=True)
        return torch.cat([guidance.combine(*part) for part in parts], dim=2)

    def _alone(self, update: Update, latents: Tensor, guidance: BaseGuidance) -> Sequence[Tensor | None]:
        """v_u of the chunks for which it counts; these are the youngest, as it does not from some time on."""
        needed = [guidance.needs_alone(time) for time in update.before]
        if not any(needed):
            return [None] * len(needed)
        skipped = needed.index(True)
        chunks = update.chunks[skipped:]
        ranges = [(chunk, chunk + 1) for chunk in chunks]
        inputs = latents[:, :, skipped * CHUNK_WIDTH :]
        nulls = [self._null] * len(chunks)
        velocity = self._evaluate(inputs, update.before[skipped:], nulls, chunks.start, ranges, has_text=False)
        return [*[None] * skipped, *velocity.split(CHUNK_WIDTH, dim=2)]

    def _distilled_velocity(self, update: Update, guidance: DistilledGuidance) -> Tensor:
        if update.refresh is not None:
            self._store(update.refresh)
        latents, times, first = self._input(update.chunks), update.before, update.chunks.start
        texts = [self._texts[chunk] for chunk in update.chunks]
        position = update.position
        velocity = self._evaluate(latents, times, texts, first, update.ranges, has_text=True, position=position)
        if guidance.needs_alone(times[0], update.ranges[0]):
            oldest, rest = velocity[:, :, :CHUNK_WIDTH], velocity[:, :, CHUNK_WIDTH:]
            ranges = [(first, first + 1)]
            inputs = latents[:, :, :CHUNK_WIDTH]
            alone = self._evaluate(inputs, times[:1], texts[:1], first, ranges, has_text=True, position=position)
            velocity = torch.cat([guidance.combine(oldest, alone), rest], dim=2)
        return velocity

    def _store(self, chunk: int) -> None:
        """Make the keys and values of a clean chunk, which do not depend on when that is done."""
        ranges = [self.schedule.key_ranges.of_clean(chunk, prefix=chunk < self.schedule.first_chunk)]
        times = (self.clean_time,)
        self._evaluate(self._clean(chunk), times, [self._null], chunk, ranges, has_text=self._distilled, store=True)

    def _evaluate(
        self,
        latents: Tensor,
        times: Sequence[float],
        texts: Sequence[Any],
        first_chunk: int,
        ranges: Sequence[tuple[int, int]],
        *,
        has_text: bool,
        position: int = 0,
        store: bool = False,
    ) -> Tensor:
        """Evaluate; clean chunks that the network has lost are given to it again. The result is the same."""
        delta = step_size(self.schedule.num_steps, position, self.schedule.shortcut_mode) if self._distilled else None
        timestep = torch.tensor(times, dtype=torch.float32)
        for attempt in range(_ATTEMPTS * self.schedule.slots):
            try:
                return self.transformer.evaluate(
                    latents,
                    timestep,
                    texts,
                    first_chunk=first_chunk,
                    ranges=ranges,
                    has_text=has_text,
                    step_size=delta,
                    store=store,
                )
            except CacheMissing as missing:
                if attempt + 1 == _ATTEMPTS * self.schedule.slots:
                    raise
                self._store(missing.chunk)
        raise AssertionError("unreachable")
