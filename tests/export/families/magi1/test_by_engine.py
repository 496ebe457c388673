"""Clips that an export makes with its own graphs, one after another in one component."""

from pathlib import Path

import numpy as np
import torch

from export.families.magi1.pipeline import by_engine
from tests.families.magi1.chunk_artifact import write_chunk_artifact
from tests.families.magi1.tiny import tiny_pipeline


def test_no_clip_leaves_anything_for_the_next_one(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    manifest = write_chunk_artifact(tmp_path, pipe.transformer, 6, 4, 4)

    def make(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        made = pipe("a red circle", height=32, width=32, num_frames=48, num_inference_steps=4, generator=generator).frames
        assert pipe.transformer._release.func.__self__.facts() == {"generations": 0, "state_bytes": 0}
        return made

    own = pipe.transformer
    with by_engine(pipe, tmp_path, manifest, threads=1):
        first, other, again = make(1), make(2), make(1)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert pipe.transformer is own
