"""What a chunk's text is: the prompt's features behind special tokens, and the "null" text (docs/specs/magi1.md, section 9)."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import Tensor

NULL_TOKENS = 50  # of the null caption that count
LONGEST_DURATION = 8  # chunks that a duration token can stand for

OFFICIAL_SPECIAL_TOKENS = "example/assets/special_tokens.npz"  # in the repository of the official code
SPECIAL_TOKENS_SHA256 = "b54bc664d5f4a722dfd8bb22201c025df61f22acddc07c0a2529d7b5cd6be5a7"
_ARRAYS = ("caption_token", "logo_token", "other_tokens")
_OTHER_TOKENS = 100
# Rows of `other_tokens`; the first duration token says that one chunk is left, itself.
_TRANSITION, _QUALITY, _STATIC, _DYNAMIC, _BORDERNESS, _DURATION, _THREE_D_MODEL, _TWO_D_ANIME = 0, 1, 2, 3, 4, 7, 15, 16

# One word, joined with "then" to the next: "right then up", "right, then up", "right and then up".
_THEN = r"(?:\s*,)?(?:\s+and)?\s+then\s+"
_CHAIN = re.compile(rf"[\w'-]+(?:{_THEN}[\w'-]+)+", re.IGNORECASE)


@dataclass(frozen=True)
class SpecialTokenOptions:
    """Which special tokens are put in front of the prompt (the original takes them from environment variables).

    Attributes:
        quality: high quality (PAD_HQ); on in the official examples.
        duration: how many chunks are left, itself included, at most 8 (PAD_DURATION); on in the official examples.
        static: the first frames do not move (PAD_STATIC).
        dynamic: the first frames move (PAD_DYNAMIC).
        borderness: the picture has a border (PAD_BORDERNESS).
        three_d_model: looks like a rendered model (PAD_THREE_D_MODEL).
        two_d_anime: looks like a drawn film (PAD_TWO_D_ANIME).
        negative: the null text gets tokens of what is not wanted: captions, logos, transitions, borders (NEG_PROMPT).
    """

    quality: bool = True
    duration: bool = True
    static: bool = False
    dynamic: bool = False
    borderness: bool = False
    three_d_model: bool = False
    two_d_anime: bool = False
    negative: bool = False


class MagiSpecialTokens(ModelMixin, ConfigMixin):
    """The special-token vectors, fp16 as the original rounds them: `caption_token` and `logo_token` [1, C], `other_tokens`
    [100, C]. A part of the pipeline, so that it is saved and loaded with it."""

    # Loaded as another dtype the rest of a pipeline may be; these would lose digits as bfloat16.
    _keep_in_fp32_modules = list(_ARRAYS)  # noqa: RUF012  (diffusers' name and type)

    caption_token: Tensor
    logo_token: Tensor
    other_tokens: Tensor

    @register_to_config
    def __init__(self, caption_channels: int = 4096) -> None:
        super().__init__()
        for name in _ARRAYS:
            rows = _OTHER_TOKENS if name == "other_tokens" else 1
            empty = torch.zeros(rows, caption_channels, dtype=torch.float16)
            self.register_parameter(name, torch.nn.Parameter(empty, requires_grad=False))

    @classmethod
    def from_arrays(cls, arrays: dict[str, Tensor]) -> "MagiSpecialTokens":
        """From the three arrays.

        Raises:
            RuntimeError: names or shapes differ.
        """
        tokens = cls(arrays["other_tokens"].shape[-1])
        tokens.load_state_dict({name: array.to(torch.float16) for name, array in arrays.items()})
        return tokens

    @classmethod
    def from_official(cls, path: Path, sha256: str = SPECIAL_TOKENS_SHA256) -> "MagiSpecialTokens":
        """From the official `special_tokens.npz`, read without pickle.

        Raises:
            ValueError: the file is another one than `sha256` says.
        """
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != sha256:
            raise ValueError(f"{path} has SHA-256 {digest}, it must be {sha256}")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls.from_arrays({name: torch.from_numpy(file[name].astype(np.float16)) for name in _ARRAYS})

    def in_front_of_prompt(self, options: SpecialTokenOptions, chunks_left: int) -> Tensor:
        """Vectors [m, C] in the order in which they stand before the prompt of a chunk with `chunks_left` (itself included)."""
        chosen = [
            (options.static, _STATIC),
            (options.dynamic, _DYNAMIC),
            (options.borderness, _BORDERNESS),
            (options.quality, _QUALITY),
            (options.three_d_model, _THREE_D_MODEL),
            (options.two_d_anime, _TWO_D_ANIME),
            (options.duration, _DURATION + min(chunks_left, LONGEST_DURATION) - 1),
        ]
        rows = [row for on, row in chosen if on]
        return self.other_tokens[rows[::-1]]  # each is put in front of those before it

    def in_front_of_null(self, options: SpecialTokenOptions) -> Tensor:
        """Vectors [m, C] in front of the null caption."""
        if not options.negative:
            return self.other_tokens[:0]
        others = self.other_tokens
        rows = [others[_BORDERNESS], others[_TRANSITION], self.logo_token[0], self.caption_token[0]]
        return torch.stack(rows)


# Prompts -------------------------------------------------------------------------------------------------------------


def clean_prompt(prompt: str) -> str:
    """The prompt as the text encoder was trained on it: diffusers' caption cleaning, twice.

    Lower case; no URLs, tags, @names, file names, long numbers and Chinese characters; dashes and quotes unified. It may be
    empty afterwards.
    """
    cleaner = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)  # the method needs no network
    (cleaned,) = cleaner._text_preprocessing(prompt, clean_caption=True)
    return str(cleaned)


def split_then(prompt: str) -> list[str]:
    """The prompts of "a red circle moving right then up on a teal background": one with "right", one with "up".

    Single words that "then" joins (also ", then" and "and then") stand for one after the other, in the first place where
    that occurs; what is around them is the same in every prompt. A prompt without such a chain is returned as it is.
    """
    match = _CHAIN.search(prompt)
    if not match:
        return [prompt]
    words = re.split(_THEN, match.group(), flags=re.IGNORECASE)
    return [prompt[: match.start()] + word + prompt[match.end() :] for word in words]


def prompt_of_chunk(prompts: Sequence[str], index: int, count: int) -> str:
    """The prompt of chunk `index` of the `count` that are generated: prompts share the chunks evenly, in their order."""
    return prompts[index * len(prompts) // count]


@torch.no_grad()
def encode_prompt(prompt: str, tokenizer: Any, text_encoder: Any, max_length: int) -> Tensor:
    """Features fp32 [n, C] of a prompt's tokens, the end of the sequence included, at most `max_length`.

    The original pads to `max_length` and masks the padding, in the encoder and in the network: without it the features are
    the same up to rounding.
    """
    tokens = tokenizer(
        clean_prompt(prompt), max_length=max_length, truncation=True, add_special_tokens=True, return_tensors="pt"
    )
    ids, mask = (tokens[name].to(text_encoder.device) for name in ("input_ids", "attention_mask"))
    features: Tensor = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0]
    return features.float().cpu()


# What the network gets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextConditioning:
    """Makes what the network gets of a text, for every chunk.

    Attributes:
        null_caption: the network's table [max_length, C].
        tokens: special tokens; a network that was trained without them has none.
        options: which of them are used.
    """

    null_caption: Tensor
    tokens: MagiSpecialTokens | None
    options: SpecialTokenOptions = SpecialTokenOptions()

    @property
    def max_length(self) -> int:
        """The most positions."""
        return len(self.null_caption)

    def null(self) -> Tensor:
        """Kept positions [50, C] of "no text"."""
        return self.null_row()[:NULL_TOKENS]

    def null_row(self) -> Tensor:
        """All positions [max_length, C] of "no text", of which the first 50 count."""
        if self.tokens is None:
            return self.null_caption
        front = self.tokens.in_front_of_null(self.options).to(self.null_caption)
        return torch.cat([front, self.null_caption])[: self.max_length]

    def of_chunk(self, features: Tensor, chunks_left: int) -> Tensor:
        """Kept positions [m + n, C], at most max_length, of a chunk with the prompt's features [n, C].

        `chunks_left` counts from this chunk to the last one. Without any features it is the null text.
        """
        if not len(features):
            return self.null()
        if self.tokens is None:
            return features[: self.max_length]
        front = self.tokens.in_front_of_prompt(self.options, chunks_left).to(features)
        return torch.cat([front, features])[: self.max_length]
