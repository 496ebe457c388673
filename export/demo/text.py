"""The text side of the demo checkpoints: a word-level T5 tokenizer and a small frozen UMT5 encoder."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

_Encoder = TypeVar("_Encoder", UMT5EncoderModel, T5EncoderModel)

TEXT_WIDTH = 64
_PAD, _EOS, _UNK = "<pad>", "</s>", "<unk>"  # T5's special tokens, at T5's places 0, 1, 2
_MARK = "▁"  # what T5 puts where a word begins
_BIAS_DEVIATION = 2.0
_CONTEXT = 0.4  # of what attention and feed-forward would add at their usual initial size


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A T5-style Unigram tokenizer whose pieces are whole `words`; any other word becomes one `<unk>`.

    Signs such as the comma stand without the mark of a word's beginning, as they follow a word.
    """
    pieces = [word if not word.isalpha() else _MARK + word for word in words]
    vocabulary = [(_PAD, 0.0), (_EOS, 0.0), (_UNK, 0.0), *((piece, -1.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_MARK, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_EOS}", special_tokens=[(_EOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, eos_token=_EOS, unk_token=_UNK, model_max_length=512
    )


def build_encoder(vocabulary_size: int, seed: int) -> UMT5EncoderModel:
    """A UMT5 encoder with fixed random weights, 64 wide, 2 layers, 4 heads.

    It is not trained: random features of so few words are told apart by the transformer's own text projection, and
    a trained one generalises worse to unseen combinations. What a word takes from its neighbours is kept small, so
    that it looks alike in every combination; the relative-position bias is drawn wide, so that the order of the words
    shows in that part. The vocabulary is rounded up to a multiple of 16.
    """
    return _freeze(UMT5EncoderModel, UMT5Config(**_shape(vocabulary_size)), seed)


def build_t5_encoder(vocabulary_size: int, seed: int) -> T5EncoderModel:
    """The same as a T5 encoder, whose layers share the position bias of the first: what MAGI-1 uses."""
    return _freeze(T5EncoderModel, T5Config(**_shape(vocabulary_size)), seed)


def _shape(vocabulary_size: int) -> dict[str, Any]:
    return {
        "vocab_size": -(-vocabulary_size // 16) * 16,
        "d_model": TEXT_WIDTH,
        "d_kv": 16,
        "num_heads": 4,
        "num_layers": 2,
        "d_ff": 128,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": True,
    }


def _freeze(kind: type[_Encoder], config: UMT5Config | T5Config, seed: int) -> _Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = kind(config)
        for name, weight in encoder.named_parameters():
            if "relative_attention_bias" in name:
                torch.nn.init.normal_(weight, std=_BIAS_DEVIATION)
            elif name.endswith((".o.weight", ".wo.weight")):
                weight.data.mul_(_CONTEXT)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def embed(
    tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel | T5EncoderModel, texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Encode texts as `WanPipeline` does: states fp32 [B, L, 64], zero from each length on, and lengths int64 [B].

    L is the length of the longest text here; the pipeline goes on with zeros to 512.
    """
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    states: Tensor = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return states * tokens.attention_mask[..., None], tokens.attention_mask.sum(dim=1)
