"""MAGI-1's schedules and sampling loop against reference tensors: tables, and whole runs update by update."""

from typing import Any

import torch
from torch import Tensor

from tests.reference.caption import read_special_tokens
from tests.reference.checks import Check, absolute, exact, largest
from tests.reference.dit import build
from tests.reference.manifest import Reference
from videosdgx.families.magi1.network.transformer import PATCH
from videosdgx.families.magi1.sampling.guidance import BaseGuidance, DistilledGuidance
from videosdgx.families.magi1.sampling.sampler import ChunkSampler, Conditions, Done, LocalTransformer, whole_chunks
from videosdgx.families.magi1.sampling.schedule import (
    CHUNK_WIDTH,
    ChunkSchedule,
    KeyRanges,
    Update,
    stages,
    time_grid,
    time_intervals,
)
from videosdgx.families.magi1.sampling.text import TextConditioning

LATENTS_LIMIT, VELOCITY_LIMIT, TIME_LIMIT = 1e-4, 2e-4, 1e-6


def schedules(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Time grids, intervals, windows and guidance scales."""
    table = reference.table(case)
    checks = []
    for grid in table["time_grids"]:
        ours = time_grid(grid["num_steps"], grid["shortcut_mode"])
        name = f"time grid {grid['num_steps']} {grid['shortcut_mode']}"
        checks.append(absolute(name, ours, torch.tensor(grid["t"]), TIME_LIMIT))
    for item in table["intervals"]:
        ours = time_intervals(item["num_steps"], item["shortcut_mode"])
        checks.append(exact(f"intervals {item['num_steps']} {item['shortcut_mode']}", ours == item["interval"]))
    for window in table["windows"]:
        made = list(stages(window["num_chunks"], window["window"], window["first_generated_chunk"]))
        names = {"chunk_start": "chunk_start", "chunk_end": "chunk_end", "sub_start": "stage_start", "sub_end": "stage_end"}
        same = all([getattr(stage, ours) for stage in made] == window[theirs] for ours, theirs in names.items())
        checks.append(exact(f"window {window['window']} of {window['num_chunks']}", same))
    for item in table["cfg_lookup"]:
        expected = (item["prev_chunk_scale"], item["text_scale"])
        checks.append(exact(f"guidance at {item['t']}", BaseGuidance().scales(item["t"]) == expected))
    return checks


def _schedule(case: dict[str, Any], prefix: Tensor | None) -> ChunkSchedule:
    config = case["runtime_config"]
    if config["chunk_width"] != CHUNK_WIDTH:
        raise ValueError(f"a chunk is {CHUNK_WIDTH} latent frames, not {config['chunk_width']}")
    return ChunkSchedule(
        num_steps=config["num_steps"],
        window_size=config["window_size"],
        num_chunks=case["num_chunks"],
        first_chunk=whole_chunks(prefix),
        shortcut_mode=case["shortcut_mode"],
        key_ranges=KeyRanges(tuple(config["noise2clean_kvrange"]), config["clean_chunk_kvrange"]),
    )


def _guidance(case: dict[str, Any]) -> BaseGuidance | DistilledGuidance:
    config = case["runtime_config"]
    if case["distill"]:
        return DistilledGuidance(case["nearly_clean_threshold"], case["distill_prev_chunks_scale"])
    scales = (tuple(config[name]) for name in ("cfg_t_range", "prev_chunk_scales", "text_scales"))
    return BaseGuidance(*scales)


class _Run:
    """Compares update after update while the sampler runs."""

    def __init__(self, case: dict[str, Any], tensors: dict[str, Tensor], schedule: ChunkSchedule, sampler: ChunkSampler):
        self.case, self.tensors, self.schedule, self.sampler = case, tensors, schedule, sampler
        self.buffer = tensors["in.noise"].clone()
        self.checks: list[Check] = []
        height, width = self.buffer.shape[-2:]
        self.tokens = CHUNK_WIDTH * (height // PATCH) * (width // PATCH)

    def on_update(self, done: Done) -> None:
        number, chunks = done.update.number, done.update.chunks
        self.buffer[:, :, chunks.start * CHUNK_WIDTH : chunks.stop * CHUNK_WIDTH] = done.latents
        self._compare_plan(self.case["steps"][number], done.update)
        expected = self.tensors["mid.latents"][number : number + 1]
        velocity = f"mid.velocity.{number:03d}"
        self.checks.append(largest(f"mid.latents {number}", self.buffer, expected, LATENTS_LIMIT))
        if velocity in self.tensors:
            self.checks.append(largest(velocity, done.velocity[0], self.tensors[velocity], VELOCITY_LIMIT))

    def _compare_plan(self, expected: dict[str, Any], update: Update) -> None:
        number = update.number
        # What is given out is counted from the first generated chunk.
        finished = None if update.finished is None else update.finished - self.schedule.first_chunk
        ints = (update.position, update.chunks.start, update.chunks.stop, finished)
        theirs = tuple(expected[name] for name in ("step_in_stage", "chunk_start", "chunk_end", "emitted_chunk"))
        self.checks.append(exact(f"plan of update {number}", ints == theirs and expected["step"] == number))
        for name, times in (("t_before", update.before), ("t_after", update.after)):
            self.checks.append(absolute(f"{name} {number}", torch.tensor(times), torch.tensor(expected[name]), TIME_LIMIT))
        (call,) = [call for call in expected["calls"] if not call["prefix_cache_fill"]]
        ranges, times = list(update.ranges), list(update.before)
        if update.refresh is not None:
            ranges.insert(0, self.schedule.key_ranges.of_clean(update.refresh))
            times.insert(0, self.sampler.clean_time)
        # The last entry may be the nearly clean chunk again, which here is an evaluation of its own.
        in_tokens = [[first * self.tokens, end * self.tokens] for first, end in ranges]
        first = update.chunks.start - (update.refresh is not None)
        same = in_tokens == call["kv_range"][: len(ranges)] and first == call["first_chunk"]
        self.checks.append(exact(f"ranges of update {number}", same and (update.refresh is not None) == call["refresh"]))
        self.checks.append(absolute(f"times {number}", torch.tensor(times), torch.tensor(call["t"])[: len(times)], TIME_LIMIT))


@torch.no_grad()
def sampler(case: dict[str, Any], reference: Reference) -> list[Check]:
    """A whole run: every update, and the chunks given out."""
    tensors = reference.tensors(case)
    model = build(reference, case["model"]).float()
    noise, prefix = tensors["in.noise"], tensors.get("in.prefix")
    prefix_frames = 0 if prefix is None else prefix.shape[2]
    schedule = _schedule(case, prefix)
    text = TextConditioning(
        model.y_embedder.null_caption_embedding.detach(), read_special_tokens(reference, model.config.caption_channels)
    )
    features = tensors["in.t5"][0, tensors["in.t5_mask"][0].bool()]
    conditions = Conditions(
        text=lambda chunk: text.of_chunk(features, schedule.num_chunks - chunk),
        null=text.null(),
        noise=lambda chunk: noise[:, :, chunk * CHUNK_WIDTH : (chunk + 1) * CHUNK_WIDTH],
        prefix=prefix,
    )
    chunk_sampler = ChunkSampler(
        LocalTransformer(model, schedule.slots),
        schedule,
        conditions,
        _guidance(case),
        clean_time=case["runtime_config"]["clean_t"],
        reference_behaviour=True,
    )
    run = _Run(case, tensors, schedule, chunk_sampler)
    chunk_sampler.on_update = run.on_update
    given = []
    for chunk, latents in chunk_sampler.run():
        skipped = max(0, prefix_frames - chunk * CHUNK_WIDTH) if prefix_frames > 1 else 0
        given.append(latents[:, :, skipped:])
    expected = sorted(
        (name for name in tensors if name.startswith("out.chunk")), key=lambda name: int(name.removeprefix("out.chunk"))
    )
    run.checks.append(exact("updates", len(case["steps"]) == schedule.num_updates))
    run.checks.append(exact("chunks given out", len(expected) == len(given)))
    run.checks += [largest(name, ours, tensors[name], LATENTS_LIMIT) for name, ours in zip(expected, given, strict=False)]
    run.checks.append(largest("out.latents", run.buffer, tensors["out.latents"], LATENTS_LIMIT))
    return run.checks
