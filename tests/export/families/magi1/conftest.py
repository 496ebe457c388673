"""A MAGI-1 checkpoint small enough to export in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.families.magi1.tiny import tiny_transformer
from tests.families.magi1.tiny_pipeline import tiny_pipeline
from videosdgx.families.magi1.spec import SPEC

LAYERS = 3


@pytest.fixture(scope="session")
def tiny_magi1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("magi1") / "tiny"
    pipeline = tiny_pipeline(split_prompts=True)
    # The outer blocks are treated otherwise than those between.
    pipeline.register_modules(transformer=tiny_transformer(num_layers=LAYERS, caption_max_length=800).eval())
    pipeline.save_pretrained(directory)
    return directory


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's clips with two chunks and few steps."""
    monkeypatch.setitem(SPEC.variants, "demo", replace(SPEC.variants["demo"], num_frames=48, num_inference_steps=4))
