"""The official repository's layout, made here with tiny networks, becomes a pipeline that gives the same clip."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from export.checkpoint.stored import CheckpointError
from export.families.magi1.convert_pipeline import convert_pipeline, copy_tokenizer
from tests.families.magi1.tiny import tiny_pipeline
from videosdgx.families.magi1.pipeline import MagiPipeline

PIPELINE = tiny_pipeline()
TEXTS = ("a red circle moving right then up on a teal background", "Ein Bär läuft durch den Wald; ½ naïve café – “so”")


def clip(pipeline: MagiPipeline) -> np.ndarray:
    generator = torch.Generator().manual_seed(1)
    options = {"height": 32, "width": 32, "num_frames": 24, "num_inference_steps": 4, "generator": generator}
    return np.concatenate(list(pipeline.stream("a red circle", **options)))  # type: ignore[arg-type]


def test_the_official_layout_becomes_a_pipeline(sources: dict[str, Any]) -> None:
    convert_pipeline(**sources)
    destination: Path = sources["destination"]
    assert not list(destination.rglob("*.bin")) and not destination.with_name("pipeline.partial").exists()
    converted = MagiPipeline.from_pretrained(destination)
    # The tiles are no part of the official configuration.
    converted.vae.register_to_config(tile_sample_min_height=32, tile_sample_min_width=32)
    assert np.array_equal(clip(converted), clip(PIPELINE))
    with pytest.raises(FileExistsError):
        convert_pipeline(**sources)


def _rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _faults(sources: dict[str, Any], fault: str) -> str:
    """Do one thing wrong; returns what the error must say."""
    encoder, vae = sources["text"] / "text_encoder", sources["official"] / "ckpt" / "vae"
    if fault == "pickle":
        (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
        return "read from safetensors files only"
    if fault == "width":
        _rewrite(encoder / "config.json", d_model=48)
        return "a t5 encoder 24 wide is needed"
    if fault == "encoder":
        _rewrite(encoder / "config.json", num_layers=2)
        return "missing: encoder.block.1"
    if fault == "vae key":
        state = PIPELINE.vae.state_dict()
        save_file({f"{name}x": tensor for name, tensor in state.items()}, vae / "diffusion_pytorch_model.safetensors")
        return "unexpected"
    if fault == "vae option":
        config = json.loads((vae / "config.json").read_text())
        _rewrite(vae / "config.json", ddconfig=config["ddconfig"] | {"use_rope": True})
        return "use_rope is True, only False is known"
    (vae / "config.json").unlink()
    return "config.json cannot be read"


@pytest.mark.parametrize("fault", ["pickle", "width", "encoder", "vae key", "vae option", "vae config"])
def test_what_does_not_fit_is_named_and_nothing_appears(sources: dict[str, Any], fault: str) -> None:
    message = _faults(sources, fault)
    with pytest.raises(CheckpointError, match=message):
        convert_pipeline(**sources)
    assert not sources["destination"].exists()


@pytest.fixture
def t5_files(tmp_path: Path) -> Path:
    """A tokenizer as T5's official repositories have it: a SentencePiece model and its configuration."""
    folder, model = tmp_path / "t5", io.BytesIO()
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, "the quick brown fox jumps over the lazy dog"] * 20),
        model_writer=model, vocab_size=90, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "<pad>"}))
    return folder


def test_a_sentencepiece_model_is_read_afterwards_without_its_package(
    t5_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sentencepiece.SentencePieceProcessor(model_file=str(t5_files / "spiece.model"))
    assert copy_tokenizer(t5_files, tmp_path / "copied") == "T5Tokenizer"
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "copied")
    for text in [*TEXTS, "A  red   fox, then — ½ café!", "läuft durch 中文", " at both ends ", "ﬁne “quotes”…"]:
        assert tokenizer(text).input_ids == [*original.encode(text), 1]


def test_without_the_package_a_sentencepiece_model_is_refused_with_its_name(
    t5_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="has a SentencePiece model only, to read it: pip install sentencepiece"):
        copy_tokenizer(t5_files, tmp_path / "copied")


def test_other_special_tokens_are_refused(sources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="it must be b54bc664"):
        convert_pipeline(**{key: value for key, value in sources.items() if key != "special_tokens_sha256"})
