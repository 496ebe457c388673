"""MAGI-1's text: cleaning, prompts by chunk, special tokens."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from videosdgx.families.magi1.sampling.text import (
    MagiSpecialTokens,
    SpecialTokenOptions,
    TextConditioning,
    clean_prompt,
    prompt_of_chunk,
    split_then,
)

WIDTH, LENGTH = 6, 60


def special_tokens() -> MagiSpecialTokens:
    generator = torch.Generator().manual_seed(1)
    arrays = {name: torch.randn(rows, WIDTH, generator=generator) for name, rows in (("caption_token", 1), ("logo_token", 1))}
    return MagiSpecialTokens.from_arrays(arrays | {"other_tokens": torch.randn(100, WIDTH, generator=generator)})


def conditioning(**options: bool) -> TextConditioning:
    return TextConditioning(
        torch.arange(LENGTH * WIDTH).float().view(LENGTH, WIDTH), special_tokens(), SpecialTokenOptions(**options)
    )


def test_cleaning_is_diffusers_twice() -> None:
    assert clean_prompt("A <b>Robot</b> &amp; friend — see https://example.com/x") == "a robot friend - see"
    assert clean_prompt("中文") == ""


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red circle moving right then up on teal", ["a red circle moving right on teal", "a red circle moving up on teal"]),
        ("Go right, then up and then left.", ["Go right.", "Go up.", "Go left."]),
        ("a dog runs", ["a dog runs"]),
        ("then it rains", ["then it rains"]),
        ("strengthen up", ["strengthen up"]),
    ],
)
def test_then_splits_a_prompt(prompt: str, parts: list[str]) -> None:
    assert split_then(prompt) == parts


def test_prompts_share_the_chunks_in_order() -> None:
    assert [prompt_of_chunk(["a", "b"], index, 5) for index in range(5)] == ["a", "a", "a", "b", "b"]
    assert [prompt_of_chunk(["a", "b", "c"], index, 3) for index in range(3)] == ["a", "b", "c"]


def test_default_tokens_are_duration_then_quality() -> None:
    text, features = conditioning(), torch.randn(4, WIDTH)
    others = text.tokens.other_tokens.float()  # type: ignore[union-attr]
    for left, row in ((1, 7), (3, 9), (8, 14), (20, 14)):
        assert torch.equal(text.of_chunk(features, left), torch.cat([others[row : row + 1], others[1:2], features]))
    assert torch.equal(text.null(), text.null_caption[:50])


def test_a_long_prompt_loses_its_end() -> None:
    text, features = conditioning(), torch.randn(LENGTH, WIDTH)
    row = text.of_chunk(features, 1)
    assert len(row) == LENGTH and torch.equal(row[2:], features[:-2])


def test_every_token_has_its_place() -> None:
    text = conditioning(static=True, dynamic=True, borderness=True, three_d_model=True, two_d_anime=True, negative=True)
    others = text.tokens.other_tokens.float()  # type: ignore[union-attr]
    front = text.of_chunk(torch.randn(1, WIDTH), 2)[:-1]
    assert torch.equal(front, others[[8, 16, 15, 1, 4, 3, 2]])
    null = text.null_row()
    assert torch.equal(null[:2], others[[4, 0]]) and torch.equal(null[4:], text.null_caption[:-4])
    assert torch.equal(null[2], text.tokens.logo_token[0].float())  # type: ignore[union-attr]


def test_without_features_the_text_is_the_null_text() -> None:
    text = conditioning()
    assert torch.equal(text.of_chunk(torch.empty(0, WIDTH), 3), text.null())


def test_a_network_without_special_tokens() -> None:
    text, features = TextConditioning(torch.randn(LENGTH, WIDTH), None), torch.randn(5, WIDTH)
    assert torch.equal(text.of_chunk(features, 3), features)


def test_official_file_is_known_by_its_digest_and_read_without_pickle(tmp_path: Path) -> None:
    path = tmp_path / "special_tokens.npz"
    arrays = {"caption_token": np.full((1, 3), 0.1), "logo_token": np.ones((1, 3)), "other_tokens": np.random.rand(100, 3)}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"special_tokens.npz has SHA-256 \w+, it must be b54bc664"):
        MagiSpecialTokens.from_official(path)
    tokens = MagiSpecialTokens.from_official(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert tokens.caption_token[0, 0].item() == np.float16(0.1) and tokens.other_tokens.dtype == torch.float16
    np.savez(path, **(arrays | {"logo_token": np.array([object()])}))
    with pytest.raises(ValueError, match="pickle"):
        MagiSpecialTokens.from_official(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_special_tokens_are_saved_and_loaded(tmp_path: Path) -> None:
    tokens = special_tokens()
    tokens.save_pretrained(tmp_path)
    loaded = MagiSpecialTokens.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert torch.equal(loaded.other_tokens.float(), tokens.other_tokens.float())
