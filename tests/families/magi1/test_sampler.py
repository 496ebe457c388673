"""MAGI-1's sampling loop on a tiny network: what is kept, what is recovered, what a prefix does."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.magi1.tiny import CONFIG, tiny_transformer
from videosdgx.families.magi1.network.cache import CacheMissing
from videosdgx.families.magi1.sampling.guidance import BASE_GUIDANCE, DISTILLED_GUIDANCE, BaseGuidance, DistilledGuidance
from videosdgx.families.magi1.sampling.sampler import ChunkSampler, Conditions, Done, LocalTransformer
from videosdgx.families.magi1.sampling.schedule import CHUNK_WIDTH, ChunkSchedule

CHANNELS, SIDE = CONFIG["in_channels"], 4
MODEL = tiny_transformer()


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions(prefix_frames: int = 0) -> Conditions:
    return Conditions(
        text=lambda chunk: random(100 + chunk, 3 + chunk % 2, CONFIG["caption_channels"]),
        null=random(99, 5, CONFIG["caption_channels"]),
        noise=lambda chunk: random(chunk, 1, CHANNELS, CHUNK_WIDTH, SIDE, SIDE),
        prefix=random(50, 1, CHANNELS, prefix_frames, SIDE, SIDE) if prefix_frames else None,
    )


class Counting(LocalTransformer):
    """Counts evaluations, and loses its cache before those that `loses` names."""

    def __init__(self, slots: int = 5, loses: Sequence[int] = ()):
        super().__init__(MODEL, slots)
        self.calls: list[tuple[int, bool, tuple[tuple[int, int], ...]]] = []
        self.loses, self.refilled, self.released = loses, 0, 0

    def evaluate(self, *tensors: Any, **options: Any) -> Tensor:
        if len(self.calls) in self.loses and self._cache is not None:
            self._cache.stored.clear()
        self.calls.append((options["first_chunk"], options["has_text"], tuple(options["ranges"])))
        try:
            return super().evaluate(*tensors, **options)
        except CacheMissing:
            self.refilled += 1
            raise

    def release(self) -> None:
        self.released += 1
        super().release()


def run(
    schedule: ChunkSchedule,
    transformer: LocalTransformer,
    guidance: BaseGuidance | DistilledGuidance = BASE_GUIDANCE,
    prefix_frames: int = 0,
    **options: Any,
) -> list[Tensor]:
    sampler = ChunkSampler(transformer, schedule, conditions(prefix_frames), guidance, **options)
    chunks = list(sampler.run())
    assert [chunk for chunk, _ in chunks] == list(range(schedule.first_chunk, schedule.num_chunks))
    return [latents for _, latents in chunks]


@pytest.mark.parametrize("guidance", [BASE_GUIDANCE, DISTILLED_GUIDANCE])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_lost_cache_changes_nothing(window: int, guidance: BaseGuidance | DistilledGuidance) -> None:
    schedule = ChunkSchedule(8, window, 4, 1)
    whole = run(schedule, Counting(), guidance, 8)
    losing = Counting(loses=range(3, 60, 5))
    again = run(schedule, losing, guidance, 8)
    assert losing.refilled > 2
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


def test_a_cache_that_is_always_lost_is_an_error() -> None:
    with pytest.raises(CacheMissing):
        run(ChunkSchedule(8, 2, 4), Counting(loses=range(1000)))


def test_evaluations_that_do_not_count_are_left_out() -> None:
    transformer = Counting()
    run(ChunkSchedule(4, 1, 1), transformer)
    alone = ((0, 1),)
    # Three times with text, without, and alone; the last quarter without text only.
    assert transformer.calls == [(0, flag, alone) for flag in (True, False, False)] * 3 + [(0, False, alone)]


def test_all_three_evaluations_give_the_same_where_some_are_left_out() -> None:
    class Everything(BaseGuidance):
        def needs_text(self, time: float) -> bool:
            return True

        def needs_alone(self, time: float) -> bool:
            return True

    schedule = ChunkSchedule(8, 4, 3)
    few, all_three = Counting(), Counting()
    pairs = zip(run(schedule, few), run(schedule, all_three, Everything()), strict=True)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)
    assert len(few.calls) < len(all_three.calls)


def test_only_the_latents_in_range_are_kept() -> None:
    kept = []
    sampler = ChunkSampler(Counting(), ChunkSchedule(8, 4, 9), conditions())
    sampler.on_update = lambda done: kept.append((len(sampler._latents), len(sampler._texts)))
    for _ in sampler.run():
        pass
    assert max(latents for latents, _ in kept) == 5 and max(texts for _, texts in kept) == 4


def test_a_prefix_stays_as_given_unless_the_original_is_wanted() -> None:
    schedule = ChunkSchedule(8, 4, 2)
    right = run(schedule, Counting(), prefix_frames=2)
    original = run(schedule, Counting(), prefix_frames=2, reference_behaviour=True)
    prefix = conditions(2).prefix
    assert prefix is not None
    assert torch.equal(right[0][:, :, :2], prefix)
    assert not torch.allclose(original[0][:, :, :2], prefix, atol=1e-2)
    assert torch.equal(original[0][:, :, 2:], right[0][:, :, 2:]) and torch.equal(original[1], right[1])


def test_a_long_prefix_is_read_only_as_far_back_as_it_is_seen() -> None:
    transformer = Counting()
    run(ChunkSchedule(8, 4, 8, 7), transformer, prefix_frames=42)
    assert [first for first, _, _ in transformer.calls[:4]] == [3, 4, 5, 6]


def test_the_prefix_must_be_as_scheduled() -> None:
    with pytest.raises(ValueError, match="the prefix fills 1 chunks, not 0"):
        run(ChunkSchedule(8, 4, 3), Counting(), prefix_frames=8)


def test_a_window_wider_than_usual_gets_a_larger_cache() -> None:
    schedule = ChunkSchedule(8, 8, 9)
    assert schedule.slots == 9
    assert len(run(schedule, Counting(schedule.slots))) == 9


def test_the_cache_is_released_when_the_end_comes_early() -> None:
    def stop(done: Done) -> None:
        if done.update.number == 5:
            raise KeyboardInterrupt

    cancelled, abandoned = Counting(), Counting()
    sampler = ChunkSampler(cancelled, ChunkSchedule(8, 4, 3), conditions(), on_update=stop)
    with pytest.raises(KeyboardInterrupt):
        list(sampler.run())
    chunks = ChunkSampler(abandoned, ChunkSchedule(8, 4, 3), conditions()).run()
    next(chunks)
    chunks.close()
    assert cancelled.released == abandoned.released == 1
