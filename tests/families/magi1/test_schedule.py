"""Time grid, windows, key ranges and guidance of MAGI-1."""

from types import SimpleNamespace

import pytest
import torch

from videosdgx.families.magi1.sampling.guidance import BASE_GUIDANCE, DISTILLED_GUIDANCE, BaseGuidance, guidance_of
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule, KeyRanges, stages, step_size, time_grid


def test_quarters_of_the_time_grid_are_where_the_guidance_changes() -> None:
    for steps in (8, 16, 32, 64):
        times = time_grid(steps)
        assert torch.allclose(times[:: steps // 4], torch.tensor([0.0, 0.0217391, 0.1, 0.3, 1.0]), atol=1e-6)
        assert times[3 * steps // 4].item() > 0.3  # fp32's 0.3 lies above: the last quarter counts as nearly clean


def test_twelve_steps_take_the_long_one_first_or_last() -> None:
    early, late, sixteen = time_grid(12), time_grid(12, "16,16,8"), time_grid(16)
    assert early.tolist() == sixteen[[0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16]].tolist()
    assert late.tolist() == sixteen[[0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16]].tolist()
    assert [step_size(12, position) for position in range(3)] == [4.0, 8.0, 8.0]
    assert [step_size(12, position, "16,16,8") for position in range(3)] == [8.0, 8.0, 4.0]
    assert [step_size(steps, 0) for steps in (8, 16, 32, 64)] == [4.0, 8.0, 16.0, 32.0]


def test_every_chunk_gets_all_its_steps_in_order() -> None:
    for window, chunks, first in ((1, 3, 0), (2, 4, 1), (4, 2, 0), (4, 7, 2)):
        schedule = ChunkSchedule(16, window, chunks, first)
        times: dict[int, list[float]] = {chunk: [0.0] for chunk in range(first, chunks)}
        finished, refreshed = [], []
        updates = list(schedule.updates())
        for update in updates:
            for chunk, before, after in zip(update.chunks, update.before, update.after, strict=True):
                assert before == times[chunk][-1]
                times[chunk].append(after)
            finished += [] if update.finished is None else [update.finished]
            refreshed += [] if update.refresh is None else [update.refresh]
        assert all(seen == schedule.times.tolist() for seen in times.values())
        assert finished == list(range(first, chunks))
        assert refreshed == finished[:-1]
        assert len(updates) == schedule.num_updates and [update.number for update in updates] == list(range(len(updates)))


def test_nothing_to_generate_takes_no_stage() -> None:
    assert list(stages(2, 4, 2)) == []
    assert ChunkSchedule(8, 4, 2, 2).num_updates == 0


def test_key_ranges_shrink_as_a_chunk_gets_cleaner() -> None:
    ranges = KeyRanges()
    assert [ranges.of_noisy(9, index, 16)[0] for index in (0, 3, 4, 8, 12, 15)] == [5, 5, 6, 7, 8, 8]
    assert ranges.of_noisy(2, 0, 16) == (0, 3)
    assert ranges.of_clean(5) == (5, 6)
    assert KeyRanges((5, 4, 3, 2), -1).of_clean(5) == (4, 6)
    assert KeyRanges((), -1).of_clean(9, prefix=True) == (2, 10)
    assert KeyRanges((), 1).of_clean(9) == (0, 10) == KeyRanges((), 1).of_noisy(9, 3, 16)


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_five_chunks_of_keys_are_enough(window: int) -> None:
    assert ChunkSchedule(24, window, 12).slots == 5
    assert ChunkSchedule(24, window, 12, 6).slots == 5
    # One clean chunk before a full window of four, up to four before a window of one.
    needed = [update.chunks.start - update.ranges[0][0] for update in ChunkSchedule(24, window, 12).updates()]
    assert max(needed) == {1: 4, 2: 2, 3: 2, 4: 1}[window]


def test_step_counts_that_do_not_fit_are_refused() -> None:
    for steps, window, divisor in ((10, 2, 4), (12, 8, 8), (0, 4, 4)):
        with pytest.raises(ValueError, match=f"num_inference_steps is {steps}, it must be a multiple of {divisor}"):
            ChunkSchedule(steps, window, 3)
    with pytest.raises(ValueError, match="3 of 2 chunks"):
        ChunkSchedule(8, 4, 2, 3)


def test_base_guidance_by_time() -> None:
    one, two, three = (torch.full((1,), value) for value in (1.0, 10.0, 100.0))
    assert BASE_GUIDANCE.combine(0.0, one, two, three).item() == pytest.approx(7.5 - 60.0 - 50.0)
    last = time_grid(64)[48].item()
    assert BASE_GUIDANCE.combine(last, None, two, None).item() == 10.0
    assert BASE_GUIDANCE.needs_text(0.29) and not BASE_GUIDANCE.needs_text(last)
    assert BASE_GUIDANCE.needs_alone(0.29) and not BASE_GUIDANCE.needs_alone(last)


def test_distilled_guidance_mixes_the_nearly_clean_chunk() -> None:
    three_quarters = time_grid(16)[12].item()
    assert DISTILLED_GUIDANCE.needs_alone(three_quarters, (3, 5))
    assert not DISTILLED_GUIDANCE.needs_alone(three_quarters, (4, 5))
    assert not DISTILLED_GUIDANCE.needs_alone(time_grid(16)[11].item(), (3, 5))
    assert DISTILLED_GUIDANCE.combine(torch.ones(1), torch.full((1,), 11.0)).item() == pytest.approx(4.0)


def test_weights_may_bring_their_own_guidance() -> None:
    own = guidance_of(SimpleNamespace(distilled=False, guidance=[[0.0, 1.0, 3.0], [0.3, 1.0, 1.0]]))
    assert isinstance(own, BaseGuidance)
    assert (own.scales(0.0), own.scales(time_grid(16)[12].item())) == ((1.0, 3.0), (1.0, 1.0))
    assert guidance_of(SimpleNamespace(distilled=False)) is BASE_GUIDANCE
    assert guidance_of(SimpleNamespace(distilled=True, guidance=[])) is DISTILLED_GUIDANCE
