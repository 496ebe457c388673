"""When which chunk is denoised, from which time to which, and which chunks it sees (docs/specs/magi1.md, sections 4 to 6.1).

A chunk is six latent frames (24 frames of video). A window of W chunks is in work at once: a chunk enters it as pure noise
(time 0), is W stages in it, each of num_steps / W updates, and leaves it clean (time 1). At every stage the window moves by
one chunk, so that the chunks in it are W stages apart in noise: the oldest is the cleanest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

CHUNK_WIDTH = 6  # latent frames
SUB_SCHEDULES = 4  # of the 12-step grid, which has three steps in each quarter
LATE_SHORTCUT = "16,16,8"
DEFAULT_SHORTCUT = "8,16,16"
_EMPTY_PREFIX_RANGE = 8  # of prefix chunks, where no ranges are given at all


@dataclass(frozen=True)
class KeyRanges:
    """How many chunks a chunk sees, itself included.

    `noise_to_clean`: by progress, from noise to clean in equal parts; empty: all chunks from the first on.
    `clean`: for chunks that are clean already; -1: the last of `noise_to_clean`.
    """

    noise_to_clean: tuple[int, ...] = (5, 4, 3, 2)
    clean: int = 1

    def of_noisy(self, chunk: int, index: int, num_steps: int) -> tuple[int, int]:
        """First and end (excluded) of the chunks that `chunk` sees at schedule index `index`."""
        if not self.noise_to_clean:
            return 0, chunk + 1
        back = self.noise_to_clean[index * len(self.noise_to_clean) // num_steps]
        return max(0, chunk + 1 - back), chunk + 1

    def of_clean(self, chunk: int, prefix: bool = False) -> tuple[int, int]:
        """The same for a clean chunk: one that was denoised, or one of the prefix."""
        if self.noise_to_clean:
            back = self.noise_to_clean[-1] if self.clean == -1 else self.clean
        elif prefix:
            back = _EMPTY_PREFIX_RANGE if self.clean == -1 else self.clean
        else:
            return 0, chunk + 1
        return max(0, chunk + 1 - back), chunk + 1


@dataclass(frozen=True)
class Stage:
    """The chunks in work (half open) and the parts of the time grid that they are in: the oldest is in `sub_end` - 1."""

    chunk_start: int
    chunk_end: int
    sub_start: int
    sub_end: int


@dataclass(frozen=True)
class Update:
    """One update of all chunks in work.

    Attributes:
        number: counted from 0 over all stages.
        position: counted from 0 in its stage.
        chunks: those in work.
        before, after: their times (fp32 values) before and after it.
        ranges: for each the first and the end of the chunks it sees.
        refresh: the clean chunk whose keys and values are made before it, if the window has moved.
        finished: the chunk that is clean after it, if any.
    """

    number: int
    position: int
    chunks: range
    before: tuple[float, ...]
    after: tuple[float, ...]
    ranges: tuple[tuple[int, int], ...]
    refresh: int | None
    finished: int | None


def time_grid(num_steps: int, shortcut_mode: str = DEFAULT_SHORTCUT) -> Tensor:
    """Times fp32 [num_steps + 1] from 0 (noise) to 1 (clean); the last is 1 up to rounding, as in the original.

    With 12 steps three of every quarter's four sixteenths are taken: one long and two short ones, or with `shortcut_mode`
    "16,16,8" the long one last.
    """
    if num_steps == 3 * SUB_SCHEDULES:
        offsets = (0, 1, 2) if shortcut_mode == LATE_SHORTCUT else (0, 2, 3)
        marks = [quarter / 4 + offset / 16 for quarter in range(SUB_SCHEDULES) for offset in offsets] + [1.0]
    else:
        marks = [step / num_steps for step in range(num_steps + 1)]
    square = torch.tensor(marks, dtype=torch.float32) ** 2
    # This order of operations gives the original's bits; comparisons with 0.3 in `guidance` hang on them.
    return (1 / 3 * square) / (1 + (1 / 3 - 1) * square)


def time_intervals(num_steps: int, shortcut_mode: str = DEFAULT_SHORTCUT) -> list[float]:
    """How long the update at each position of a stage is, in units of the shortest: what distilled networks are told."""
    if num_steps % 3:
        return [1.0] * num_steps
    return ([1.0, 1.0, 2.0] if shortcut_mode == LATE_SHORTCUT else [2.0, 1.0, 1.0]) * (num_steps // 3)


def step_size(num_steps: int, position: int, shortcut_mode: str = DEFAULT_SHORTCUT) -> float:
    """What a distilled network is told of the length of an update (docs/specs/magi1.md, section 3.3): a number far above 1."""
    if num_steps == 3 * SUB_SCHEDULES:
        return 8 / time_intervals(num_steps, shortcut_mode)[position]
    return num_steps / 2


def stages(num_chunks: int, window_size: int, first_chunk: int = 0) -> Iterator[Stage]:
    """The stages of a video of `num_chunks`, of which those before `first_chunk` are given."""
    for number in range(num_chunks - first_chunk + window_size - 1 if num_chunks > first_chunk else 0):
        youngest = number + first_chunk
        yield Stage(
            chunk_start=max(first_chunk, youngest - window_size + 1),
            chunk_end=min(num_chunks, youngest + 1),
            sub_start=max(0, youngest - num_chunks + 1),
            sub_end=min(window_size, number + 1),
        )


@dataclass(frozen=True)
class ChunkSchedule:
    """Everything about the order of a generation.

    Args:
        num_steps: updates that each chunk gets; a multiple of `window_size` and of the number of key ranges.
        window_size: W, chunks in work at once.
        num_chunks: of the video, prefix included.
        first_chunk: whole chunks of the prefix, which are not denoised.
        shortcut_mode: see `time_grid`.
        key_ranges: which chunks a chunk sees.

    Raises:
        ValueError: `num_steps` does not fit (the original then never finishes a chunk), or a count is below its least.
    """

    num_steps: int
    window_size: int
    num_chunks: int
    first_chunk: int = 0
    shortcut_mode: str = DEFAULT_SHORTCUT
    key_ranges: KeyRanges = KeyRanges()

    def __post_init__(self) -> None:
        for divisor, what in ((self.window_size, "window_size"), (max(1, len(self.key_ranges.noise_to_clean)), "key ranges")):
            if divisor < 1 or self.num_steps < 1 or self.num_steps % divisor:
                raise ValueError(f"num_inference_steps is {self.num_steps}, it must be a multiple of {divisor} ({what})")
        if not 0 <= self.first_chunk <= self.num_chunks:
            raise ValueError(f"{self.first_chunk} of {self.num_chunks} chunks cannot be given")

    @cached_property
    def times(self) -> Tensor:
        """The grid, fp32 [num_steps + 1]."""
        return time_grid(self.num_steps, self.shortcut_mode)

    @property
    def updates_per_stage(self) -> int:
        """Updates that a chunk gets in each stage (D in the specification)."""
        return self.num_steps // self.window_size

    @property
    def num_updates(self) -> int:
        """Of all stages."""
        generated = self.num_chunks - self.first_chunk
        return self.updates_per_stage * (generated + self.window_size - 1) if generated else 0

    @cached_property
    def slots(self) -> int:
        """The most chunks, cached or in work, that one evaluation needs; no more than 5 with the shipped ranges and W <= 4."""
        return max((update.chunks.stop - self.oldest_needed(update) for update in self.updates()), default=1)

    def oldest_needed(self, update: Update) -> int:
        """The first chunk whose keys and values this update reads or makes."""
        first = min(first for first, _ in update.ranges)
        return first if update.refresh is None else min(first, self.key_ranges.of_clean(update.refresh)[0])

    def updates(self) -> Iterator[Update]:
        """All updates in their order."""
        times, per_stage = self.times.tolist(), self.updates_per_stage
        for stage_number, stage in enumerate(stages(self.num_chunks, self.window_size, self.first_chunk)):
            for position in range(per_stage):
                subs = range(stage.sub_end - 1, stage.sub_start - 1, -1)
                indices = [sub * per_stage + position for sub in subs]
                chunks = range(stage.chunk_start, stage.chunk_end)
                moved = position == 0 and stage.chunk_start > self.first_chunk
                clean = indices[0] + 1 == self.num_steps
                yield Update(
                    number=stage_number * per_stage + position,
                    position=position,
                    chunks=chunks,
                    before=tuple(times[index] for index in indices),
                    after=tuple(times[index + 1] for index in indices),
                    ranges=tuple(
                        self.key_ranges.of_noisy(chunk, index, self.num_steps)
                        for chunk, index in zip(chunks, indices, strict=True)
                    ),
                    refresh=stage.chunk_start - 1 if moved else None,
                    finished=stage.chunk_start if clean else None,
                )
