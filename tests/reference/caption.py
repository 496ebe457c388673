"""MAGI-1's text conditioning against reference tensors: cleaned prompts, special tokens, null rows, masks."""

from typing import Any

import torch

from tests.reference.checks import Check, exact
from tests.reference.manifest import Reference
from videosdgx.families.magi1.sampling.schedule import CHUNK_WIDTH
from videosdgx.families.magi1.sampling.text import (
    NULL_TOKENS,
    MagiSpecialTokens,
    SpecialTokenOptions,
    TextConditioning,
    clean_prompt,
)

_ON = {"1", "true", "yes", "y", "on", "enabled"}
SWITCHES = {
    "quality": "PAD_HQ",
    "duration": "PAD_DURATION",
    "static": "PAD_STATIC",
    "dynamic": "PAD_DYNAMIC",
    "borderness": "PAD_BORDERNESS",
    "three_d_model": "PAD_THREE_D_MODEL",
    "two_d_anime": "PAD_TWO_D_ANIME",
    "negative": "NEG_PROMPT",
}


def read_special_tokens(reference: Reference, width: int) -> MagiSpecialTokens:
    """The file of the manifest whose vectors have that width."""
    for name in reference.manifest["caption_special_tokens"]:
        arrays = reference.load(name)
        if arrays["other_tokens"].shape[-1] == width:
            return MagiSpecialTokens.from_arrays(arrays)
    raise ValueError(f"no special tokens of width {width}")


def text_cleaning(case: dict[str, Any], reference: Reference) -> list[Check]:
    """Prompts before and after cleaning."""
    return [exact(repr(item["prompt"]), clean_prompt(item["prompt"]) == item["cleaned"]) for item in reference.table(case)]


@torch.no_grad()
def caption(case: dict[str, Any], reference: Reference) -> list[Check]:
    """The rows of both texts, and which positions of them count."""
    tensors = reference.tensors(case)
    features, mask, null = tensors["in.t5"][0], tensors["in.t5_mask"][0].bool(), tensors["in.null"]
    rows, masks = tensors["out.y"], tensors["out.mask"].bool()
    options = SpecialTokenOptions(**{name: case["env"].get(switch, "").lower() in _ON for name, switch in SWITCHES.items()})
    text = TextConditioning(null, read_special_tokens(reference, null.shape[-1]), options)
    given = case["prefix_latent_frames"] // CHUNK_WIDTH
    checks = [exact("chunks", rows.shape[1] == case["num_chunks"])]
    positions = torch.arange(len(null))
    for chunk, (row, kept) in enumerate(zip(rows[1], masks[1], strict=True)):
        checks.append(exact(f"null row {chunk}", torch.equal(text.null_row(), row)))
        checks.append(exact(f"null mask {chunk}", torch.equal(kept, positions < NULL_TOKENS)))
        checks.append(exact(f"null text {chunk}", torch.equal(text.null(), row[kept])))
    for chunk, (row, kept) in enumerate(zip(rows[0], masks[0], strict=True)):
        if chunk < given:
            checks.append(exact(f"prefix row {chunk}", torch.equal(null, row) and not kept.any()))
            continue
        left = case["num_chunks"] - chunk
        if mask.any():
            checks.append(exact(f"row {chunk}", torch.equal(text.of_chunk(features, left), row)))
        checks.append(exact(f"text {chunk}", torch.equal(text.of_chunk(features[mask], left), row[kept])))
    return checks
