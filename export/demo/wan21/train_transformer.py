"""Train the transformer of the Wan 2.1 demo checkpoint: flow matching on the VAE's latents, steered by captions."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from export.demo import text, world
from export.demo.optimise import optimisers, rate_at, set_rate
from export.demo.wan21 import train_vae

# Every dimension of every Linear is a multiple of 16, so that blocks of NVFP4 fit.
CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": text.TEXT_WIDTH,
    "freq_dim": 256,
    "ffn_dim": 512,
    "num_layers": 4,
    "cross_attn_norm": True,
}
STEPS = 8000
BATCH = 32
PEAK_RATE = 3e-3
FLOW_SHIFT = 3.0
CLIPS_PER_COMBINATION = 30
TEXT_POSITIONS = 512  # what the pipeline pads every prompt to
_PLAIN_CAPTION = 0.3  # share of the plain caption among all
_NO_CAPTION = 0.1  # share of empty captions, for classifier-free guidance
_SINGLE_FRAME = 0.1  # share of batches that hold only the first latent frame: text to image
_AVERAGE = 0.998  # of the exponential moving average of the weights, per step


@dataclass(frozen=True)
class Data:
    """Everything the training draws from, computed once."""

    latents: Tensor  # fp32 [combinations, clips, 16, 3, 8, 8], normalised
    states: Tensor  # fp32 [captions, L, 64], zero beyond each caption's end; the last caption is the empty one
    lengths: Tensor  # int64 [captions]
    captions_of: list[range]  # per combination: rows of `states`; the first is the plain caption
    weights: Tensor  # fp32 [combinations], mean 1: how much the loss of a clip counts


@torch.no_grad()
def prepare(
    vae: AutoencoderKLWan, tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, rng: np.random.Generator
) -> Data:
    """Render, encode and normalise clips of every training combination, and encode every caption."""
    training, _ = world.split()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    latents: list[Tensor] = []
    texts: list[str] = []
    captions_of: list[range] = []
    for combination in training:
        clips = train_vae.draw([combination], CLIPS_PER_COMBINATION, rng)
        latents.append((train_vae.encode(vae, clips)[0] - mean) / deviation)
        captions = world.captions(combination)
        captions_of.append(range(len(texts), len(texts) + len(captions)))
        texts += captions
    states, lengths = text.embed(tokenizer, encoder, [*texts, ""])
    stacked = torch.stack(latents)
    return Data(stacked, states, lengths, captions_of, weigh(stacked))


def weigh(latents: Tensor) -> Tensor:
    """Weights [combinations], mean 1, for latents [combinations, clips, 16, F, H, W]: the inverse of their contrast.

    A blue object on teal differs from its background far less than a yellow one on black, so its outline hardly shows
    in an unweighted mean: blue squares came out with round corners when all others were sharp.
    """
    contrast = latents.var(dim=(-2, -1)).mean(dim=(1, 2, 3))
    return (1 / contrast) / (1 / contrast).mean()


def draw(data: Data, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch: latents [count, 16, 3, 8, 8], text states [count, L, 64] and their lengths, and loss weights [count]."""
    which = rng.integers(len(data.captions_of), size=count)
    clips = rng.integers(data.latents.shape[1], size=count)
    rows = []
    for index, chance in zip(which, rng.random(count), strict=True):
        captions = data.captions_of[index]
        if chance < _NO_CAPTION:
            rows.append(len(data.lengths) - 1)
        elif chance < _NO_CAPTION + _PLAIN_CAPTION:
            rows.append(captions[0])
        else:
            rows.append(captions[rng.integers(len(captions))])
    return data.latents[which, clips], data.states[rows], data.lengths[rows], data.weights[which]


class PaddedText(WanAttnProcessor):
    """Cross-attention over a short text that acts as if it were padded to 512 positions.

    The pipeline pads prompts with zero vectors and masks nothing, so hundreds of equal positions dilute the few words.
    m equal positions weigh as one whose score is log(m) higher: with a bias that makes the few padding positions
    here weigh as much as all of those, the result is the same.
    """

    bias: Tensor | None = None  # [B, 1, 1, L], added to the scores

    def set_lengths(self, lengths: Tensor, positions: int) -> None:
        """Take the number of words [B] of each text in the batch, of `positions` given."""
        padding = torch.arange(positions) >= lengths[:, None]
        weight = torch.log((TEXT_POSITIONS - lengths) / (positions - lengths))
        self.bias = (padding * weight[:, None])[:, None, None, :]

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend with the bias in the place of the mask, which the block leaves empty."""
        out: Tensor = super().__call__(attn, hidden_states, encoder_hidden_states, self.bias, rotary_emb)
        return out


def build(seed: int) -> WanTransformer3DModel:
    """A fresh transformer that predicts zero, with half-open gates."""
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(**CONFIG)
    with torch.no_grad():
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()
        for block in transformer.blocks:
            block.scale_shift_table[:, [2, 5]] += 0.5
    return transformer


def loss(transformer: WanTransformer3DModel, latents: Tensor, states: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean squared error of the velocity, noise - data, at sigmas spread as the scheduler's with its shift."""
    uniform = torch.rand(len(latents))
    sigma = FLOW_SHIFT * uniform / (1 + (FLOW_SHIFT - 1) * uniform)
    noise = torch.randn_like(latents)
    weight = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - weight) * latents + weight * noise
    (velocity,) = transformer(noisy, 1000 * sigma, states, return_dict=False)
    return ((velocity - (noise - latents)).square().mean(dim=(1, 2, 3, 4)) * weights).mean()


def train(data: Data, seed: int, steps: int, report: Callable[[str], None]) -> WanTransformer3DModel:
    """Train from scratch; returns the averaged weights. `report` gets a line now and then."""
    transformer = build(seed)
    average = copy.deepcopy(transformer).requires_grad_(False)
    padded = PaddedText()
    for block in transformer.blocks:
        block.attn2.set_processor(padded)
    # One position more than the longest caption has words, so that every text has padding to carry the bias.
    states = torch.nn.functional.pad(data.states, (0, 0, 0, 1))
    data = dataclasses.replace(data, states=states)
    rng = np.random.default_rng(seed)
    opts = optimisers(transformer, weight_decay=0.01)
    began = time.monotonic()
    recent = 0.0
    for step in range(steps):
        set_rate(opts, rate_at(step / steps, PEAK_RATE))
        latents, words, lengths, weights = draw(data, BATCH, rng)
        if rng.random() < _SINGLE_FRAME:
            latents = latents[:, :, :1]
        padded.set_lengths(lengths, words.shape[1])
        value = loss(transformer, latents, words, weights)
        value.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        with torch.no_grad():
            keep = min(_AVERAGE, (step + 1) / (step + 10))
            for old, new in zip(average.parameters(), transformer.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        recent += value.item()
        if (step + 1) % 100 == 0:
            report(f"transformer step {step + 1}/{steps}, {time.monotonic() - began:.0f} s: loss {recent / 100:.4f}")
            recent = 0.0
    return average.eval()
