"""Train the transformer of the MAGI-1 demo checkpoint: flow matching on windows of chunks, as the sampler sees them.

A row of the training batch holds 5 chunks in their order: clean ones, and noisy ones whose times lie on the window's
staircase, a quarter of the schedule apart. Which are clean, and which see which, is a `Pattern`; a batch has one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from export.demo import text
from export.demo.magi1 import world
from export.demo.optimise import optimisers, rate_at, set_rate
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.block import attention
from videosdgx.families.magi1.network.rotary import token_positions
from videosdgx.families.magi1.network.transformer import PATCH, MagiTransformer3DModel

# Every dimension of every Linear is a multiple of 16, so that blocks of NVFP4 fit.
CONFIG = {
    "num_layers": 5,
    "hidden_size": 128,
    "ffn_hidden_size": 1024,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "caption_channels": text.TEXT_WIDTH,
    "caption_max_length": 800,
}
# (time from which it holds, scale of the previous chunks, scale of the text), chosen by the judge. More of the previous chunks
# than the official 1.5 and less of the text than its 7.5: fewer jumps between chunks. Text to the end, unlike the official
# scales: at this size the shape is not settled at a time of 0.3.
GUIDANCE = ((0.0, 2.5, 3.0), (0.3, 3.5, 1.2))
STEPS = 12000
BATCH = 4
PEAK_RATE = 3e-3
CHUNK_WIDTH = 6  # latent frames
WINDOW = 4  # noisy chunks at once, and quarters of the schedule
CLIP_CHUNKS = 6
CLIPS_PER_COMBINATION = 10
CLEAN_TIME = 0.9999
NULL_TOKENS = 50  # rows of the null caption that the pipeline uses
DURATIONS = 8
_HQ, _FIRST_DURATION = 1, 7  # rows of `other_tokens`
_CHANGE = 0.25  # chance of another motion at each boundary of chunks
_PLAIN_CAPTION = 0.3  # share of the plain caption among all
_NO_CAPTION = 0.15  # share of windows without text, for guidance
_NO_SPECIAL_TOKENS = 0.05
_REFRESHED_WITH_TEXT = 0.25  # share of windows with text whose clean chunks are of the same pass: one update in four
_AVERAGE = 0.998  # of the exponential moving average of the weights, per step
_KEPT_EVERY = 1000  # steps
_BANDS = (1.0, 0.4, 0.15, 0.05)  # rotary frequencies at the start: those of MAGI-1 are for 16 channels, not 4
_GAIN = 0.3  # of what each half of a layer adds at the start


@dataclass(frozen=True)
class Group:
    """Consecutive chunks of one clip: `clean` ones, then noisy ones in these quarters of the schedule (0 is noisiest)."""

    clean: int
    quarters: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many chunks."""
        return self.clean + len(self.quarters)


@dataclass(frozen=True)
class Pattern:
    """The groups of a row, 5 chunks in all, and whether they begin their clips; without text if `alone`."""

    groups: tuple[Group, ...]
    from_start: bool
    alone: bool = False

    def ranges(self) -> Iterator[tuple[int, int]]:
        """For each chunk of the row the first and the end of the chunks that it sees; a clean one sees itself only."""
        first = 0
        for group in self.groups:
            for index in range(group.size):
                end = first + index + 1
                yield (end - 1 if index < group.clean else first), end
            first += group.size


def _noisy(count: int) -> tuple[int, ...]:
    return tuple(range(count - 1, -1, -1))


_SINGLE = Group(0, (0,))
# Chance, pattern. The pattern in the middle of a clip is that of a window that is full or shrinks at the end of the clip
# (there the youngest chunks are missing, which the others do not see anyway); at the start of a clip the window grows, and
# after a prefix of several chunks it grows behind them. The start is the hardest part (nothing shows where the object is or
# how it goes) and what follows depends on it, so it comes more often than in a clip.
PATTERNS: tuple[tuple[float, Pattern], ...] = (
    (0.38, Pattern((Group(1, _noisy(4)),), from_start=False)),
    (0.25, Pattern((Group(0, _noisy(4)), _SINGLE), from_start=True)),
    (0.19, Pattern((Group(0, _noisy(2)), Group(0, _noisy(3))), from_start=True)),
    (0.03, Pattern((Group(1, _noisy(1)), Group(1, _noisy(2))), from_start=False)),
    (0.02, Pattern((Group(2, _noisy(1)), Group(1, _noisy(1))), from_start=False)),
    (0.02, Pattern((Group(1, _noisy(3)), _SINGLE), from_start=True)),
    (0.02, Pattern((Group(2, _noisy(2)), _SINGLE), from_start=True)),
    (0.02, Pattern((Group(2, _noisy(3)),), from_start=False)),
    (0.01, Pattern((Group(3, _noisy(2)),), from_start=False)),
    (0.01, Pattern((Group(4, _noisy(1)),), from_start=False)),
    (0.05, Pattern(tuple(Group(0, (quarter,)) for quarter in (0, 0, 1, 2, 3)), from_start=False, alone=True)),
)


@dataclass(frozen=True)
class Data:
    """Everything the training draws from, computed once."""

    latents: Tensor  # fp16 [clips, CLIP_CHUNKS, 16, 6, 8, 8], scaled
    shown: Tensor  # int64 [clips, CLIP_CHUNKS]: index of the training combination that each chunk shows
    states: Tensor  # fp32 [captions, L, 64], zero beyond each caption's end
    lengths: Tensor  # int64 [captions]
    captions_of: list[range]  # per training combination: rows of `states`; the first is the plain caption
    special: Tensor  # fp32 [100, 64]: `other_tokens` of the special-token file


def special_tokens(seed: int) -> dict[str, Tensor]:
    """The demo's special-token file: random vectors as large as the text's, in the arrays of the official file, fp16."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"caption_token": 1, "logo_token": 1, "other_tokens": 100}
    return {name: torch.randn(count, text.TEXT_WIDTH, generator=generator).half() for name, count in rows.items()}


@torch.no_grad()
def encode_clips(vae: AutoencoderKLMagi, clips_per_combination: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Render and encode clips of every training combination: `latents` and `shown` of `Data`."""
    training, _ = world.split()
    index_of = {combination: index for index, combination in enumerate(training)}
    latents, shown = [], []
    for combination in training:
        story = world.Story(combination.colour, combination.shape, combination.background, (combination.motion,))
        allowed = {motion: story.part(motion) in index_of for motion in world.MOTIONS}
        for _ in range(clips_per_combination):
            motions = world.draw_motions(combination.motion, allowed, CLIP_CHUNKS, _CHANGE, rng)
            clip = torch.from_numpy(world.render(combination, motions, rng)).permute(3, 0, 1, 2)[None] * 2 - 1
            tiles = torch.cat(clip.split(vae.config.tile_sample_min_length, dim=2))
            mean = vae.encoder(tiles).chunk(2, dim=1)[0] * vae.config.scaling_factor
            chunks = torch.cat(list(mean), dim=1).unflatten(1, (CLIP_CHUNKS, CHUNK_WIDTH)).transpose(0, 1)
            latents.append(chunks.half())
            shown.append(torch.tensor([index_of[story.part(motion)] for motion in motions]))
    return torch.stack(latents), torch.stack(shown)


def prepare(
    latents: Tensor, shown: Tensor, tokenizer: PreTrainedTokenizerFast, encoder: T5EncoderModel, special: Tensor
) -> Data:
    """Encode every caption of the training combinations, and put all together."""
    texts: list[str] = []
    captions_of: list[range] = []
    for combination in world.split()[0]:
        captions = world.captions(combination)
        captions_of.append(range(len(texts), len(texts) + len(captions)))
        texts += captions
    states, lengths = text.embed(tokenizer, encoder, texts)
    return Data(latents, shown, states, lengths, captions_of, special.float())


@dataclass(frozen=True)
class Batch:
    """N rows of 5 chunks of one pattern."""

    latents: Tensor  # fp32 [N, 5, 16, 6, 8, 8]
    times: Tensor  # fp32 [N, 5]
    flags: Tensor  # bool [N, 5]: has text
    features: Tensor  # fp32 [N, 5, n, 64]: special tokens and caption
    lengths: Tensor  # int64 [N, 5]: how many of the n count; 0: the null caption
    combinations: Tensor  # int64 [N, 5]
    noisy: Tensor  # bool [5]
    ranges: list[tuple[int, int]]


def schedule(progress: Tensor) -> Tensor:
    """Time of a chunk at `progress` 0..1 through its steps (docs/specs/magi1.md, section 6.1)."""
    square = progress.square()
    return square / (3 - 2 * square)


def draw(data: Data, pattern: Pattern, count: int, rng: np.random.Generator) -> Batch:
    """A batch of `count` rows of a pattern."""
    slots = sum(group.size for group in pattern.groups)
    longest = data.states.shape[1]
    latents = torch.empty(count, slots, *data.latents.shape[2:])
    progress = torch.ones(count, slots)
    flags = torch.zeros(count, slots, dtype=torch.bool)
    features = torch.zeros(count, slots, 2 + longest, data.states.shape[2])
    lengths = torch.zeros(count, slots, dtype=torch.int64)
    combinations = torch.zeros(count, slots, dtype=torch.int64)
    for row in range(count):
        slot = 0
        for group in pattern.groups:
            clip = int(rng.integers(len(data.latents)))
            first = 0 if pattern.from_start else int(rng.integers(CLIP_CHUNKS - group.size + 1))
            place = slice(slot, slot + group.size)
            latents[row, place] = data.latents[clip, first : first + group.size].float()
            combinations[row, place] = data.shown[clip, first : first + group.size]
            phase = 0.0 if rng.random() < 0.1 else rng.random()
            for index, quarter in enumerate(group.quarters):
                progress[row, slot + group.clean + index] = (quarter + phase) / WINDOW
            if not pattern.alone and rng.random() >= _NO_CAPTION:
                noisy = range(slot + group.clean, slot + group.size)
                flags[row, noisy.start : noisy.stop] = True
                flags[row, slot : noisy.start] = bool(rng.random() < _REFRESHED_WITH_TEXT)
                _write_text(data, combinations[row], features[row], lengths[row], noisy, rng)
            slot += group.size
    noisy_slots = torch.tensor([index >= group.clean for group in pattern.groups for index in range(group.size)])
    times = torch.where(noisy_slots, schedule(progress), CLEAN_TIME)
    return Batch(latents, times, flags, features, lengths, combinations, noisy_slots, list(pattern.ranges()))


def _write_text(
    data: Data, combinations: Tensor, features: Tensor, lengths: Tensor, noisy: range, rng: np.random.Generator
) -> None:
    """Put a caption of its own before each of the `noisy` chunks of a row, led by its duration token and HQ."""
    special = rng.random() >= _NO_SPECIAL_TOKENS
    left = int(rng.integers(1 - len(noisy), DURATIONS + 1))  # chunks after the last; below 0 where the clip ends before it
    for slot in noisy:
        captions = data.captions_of[int(combinations[slot])]
        caption = captions[0] if rng.random() < _PLAIN_CAPTION else captions[int(rng.integers(len(captions)))]
        words = data.states[caption, : data.lengths[caption]]
        if special:
            duration = min(max(left + noisy.stop - slot, 1), DURATIONS)
            words = torch.cat([data.special[[_FIRST_DURATION + duration - 1, _HQ]], words])
        features[slot, : len(words)] = words
        lengths[slot] = len(words)


def text_states(model: MagiTransformer3DModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Keys and values of each chunk's text [L, N * 5, 50, G, 2d], and which of them count, bool [N * 5, 50]."""
    null = model.encode_text(model.y_embedder.null_caption_embedding[:NULL_TOKENS])
    own = model.encode_text(batch.features.flatten(0, 1))
    own = torch.nn.functional.pad(own, (0, 0, 0, 0, 0, NULL_TOKENS - own.shape[2]))
    lengths = batch.lengths.flatten()
    without = lengths == 0
    states = torch.where(without[None, :, None, None, None], null[:, None], own)
    return states, (torch.arange(NULL_TOKENS) < lengths[:, None]) | without[:, None]


def predict(
    model: MagiTransformer3DModel,
    latents: Tensor,
    times: Tensor,
    flags: Tensor,
    states: Tensor,
    mask: Tensor,
    ranges: Sequence[tuple[int, int]],
) -> Tensor:
    """Velocities, shaped as `latents` [N, R, C, T, H, W], of N rows of R chunks; `ranges` as in `Pattern.ranges`.

    It differs from `model.forward` in that each chunk has a flag of its own, and that attention runs over the keys in
    range instead of all under a mask: a third faster.
    """
    clips, chunks, _, frames, height, width = latents.shape
    rotary = model.rope(token_positions(0, chunks * frames, height // PATCH, width // PATCH))
    flag = model.y_embedder.flag(flags.flatten()).unflatten(0, (clips, chunks))
    condition = model.t_embedder(times, torch.float32) + flag
    x = model.patchify(latents.transpose(1, 2).flatten(2, 3))
    tokens = x.shape[1] // chunks
    words = mask[:, None, None, :]
    for index, layer in enumerate(model.layers):
        gates = layer.ada_modulate_layer(condition).tanh()
        query, text_query, keys_values = layer.self_attention.project(x, *rotary)
        own = torch.cat(
            [
                attention(query[:, slot * tokens : (slot + 1) * tokens], keys_values[:, first * tokens : end * tokens])
                for slot, (first, end) in enumerate(ranges)
            ],
            dim=1,
        )
        by_chunk = layer.self_attention.q_layernorm_xattn(text_query).unflatten(1, (chunks, -1)).flatten(0, 1)
        cross = attention(by_chunk, states[index], words).reshape(own.shape)
        x = layer.add(x, own, cross, *gates.chunk(2, dim=-1))
    velocity = model.unpatchify(x, chunks * frames, height, width)
    return velocity.unflatten(2, (chunks, frames)).transpose(1, 2)


def weigh(latents: Tensor, shown: Tensor, combinations: int) -> Tensor:
    """Weights [combinations], mean 1: the inverse of the contrast of each one's latents.

    A blue object on teal differs from its background far less than a yellow one on black, so its outline hardly shows
    in an unweighted mean.
    """
    contrast = latents.float().var(dim=(-2, -1)).mean(dim=(2, 3)).flatten()  # of each chunk
    total = torch.zeros(combinations).index_add(0, shown.flatten(), contrast)
    mean = total / torch.bincount(shown.flatten(), minlength=combinations)
    return (1 / mean) / (1 / mean).mean()


def loss(model: MagiTransformer3DModel, batch: Batch, weights: Tensor) -> Tensor:
    """Weighted mean squared error of the velocity, data - noise, of the noisy chunks."""
    noise = torch.randn_like(batch.latents)
    level = batch.times[..., None, None, None, None]
    noisy = (1 - level) * noise + level * batch.latents
    given = torch.where(batch.noisy[:, None, None, None, None], noisy, batch.latents)
    states, mask = text_states(model, batch)
    velocity = predict(model, given, batch.times, batch.flags, states, mask, batch.ranges)
    error = (velocity - (batch.latents - noise)).square().mean(dim=(2, 3, 4, 5))
    return (error * weights[batch.combinations])[:, batch.noisy].mean()


def build(seed: int) -> MagiTransformer3DModel:
    """A fresh transformer that predicts zero, with half-open gates and layers that start small."""
    torch.manual_seed(seed)
    model = MagiTransformer3DModel(**CONFIG)
    with torch.no_grad():
        model.rope.bands.copy_(torch.tensor(_BANDS))
        model.final_linear.linear.weight.zero_()
        for layer in model.layers:
            layer.ada_modulate_layer.proj[0].bias.fill_(0.5)
            layer.self_attn_post_norm.weight.fill_(_GAIN - 1)
            layer.mlp_post_norm.weight.fill_(_GAIN - 1)
    return model


def widened(model: MagiTransformer3DModel) -> MagiTransformer3DModel:
    """A copy with the feed-forward width of `CONFIG`, which may be greater, that computes the same as `model`.

    New units read at random and write nothing yet (Chen et al. 2016, "Net2Net").
    """
    wide = MagiTransformer3DModel(**{**model.config, "ffn_hidden_size": CONFIG["ffn_hidden_size"]})
    known = model.state_dict()
    with torch.no_grad():
        for name, weight in wide.state_dict().items():
            if name.endswith("linear_fc2.weight"):
                weight.zero_()
            weight[tuple(slice(size) for size in known[name].shape)] = known[name]
    return wide.eval()


def train(
    data: Data,
    seed: int,
    steps: int,
    report: Callable[[str], None],
    keep: Callable[[MagiTransformer3DModel], None],
    rate: float,
    start: MagiTransformer3DModel,
) -> MagiTransformer3DModel:
    """Train on from `start`, widened if it is narrower; returns the averaged weights.

    `report` gets a line now and then, `keep` the averaged weights so far, so that a stopped training is not lost.
    """
    torch.manual_seed(seed)
    model = widened(start).train()
    average = copy.deepcopy(model).requires_grad_(False)
    rng = np.random.default_rng(seed)
    opts = optimisers(model, weight_decay=0.01)
    weights = weigh(data.latents, data.shown, len(data.captions_of))
    chances = np.array([chance for chance, _ in PATTERNS])
    began = time.monotonic()
    recent = 0.0
    for step in range(steps):
        set_rate(opts, rate_at(step / steps, rate))
        _, pattern = PATTERNS[int(rng.choice(len(PATTERNS), p=chances / chances.sum()))]
        value = loss(model, draw(data, pattern, BATCH, rng), weights)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            share = min(_AVERAGE, (step + 1) / (step + 10))
            for old, new in zip(average.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 1 - share)
        recent += value.item()
        if (step + 1) % 100 == 0:
            report(f"transformer step {step + 1}/{steps}, {time.monotonic() - began:.0f} s: loss {recent / 100:.4f}")
            recent = 0.0
        if (step + 1) % _KEPT_EVERY == 0:
            keep(average)
    return average.eval()
