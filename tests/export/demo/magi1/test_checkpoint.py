"""The committed MAGI-1 demo: what is on disk, and that its text steers its video."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from export.demo.checkpoint import MAGI1, load_magi1
from export.demo.magi1 import judge, world
from export.demo.magi1.evaluate import go_on, judge_all, unseen_stories, vae_quality
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.home import CHECKOUT


@pytest.fixture(scope="module")
def pipe() -> MagiPipeline:
    torch.set_num_threads(1)
    return load_magi1()


def test_all_weights_are_safetensors_in_fp32_and_small():
    files = [path for path in MAGI1.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 16e6
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as weights:
                kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
            assert kinds == {"F16" if path.parent.name == "special_tokens" else "F32"}


def test_from_pretrained_loads_it(pipe: MagiPipeline):
    loaded = MagiPipeline.from_pretrained(MAGI1)
    assert loaded.config.split_prompts
    assert torch.equal(loaded.transformer.rope.bands, pipe.transformer.rope.bands)
    assert torch.equal(loaded.special_tokens.other_tokens, pipe.special_tokens.other_tokens)


def test_nothing_of_the_machine_it_was_made_on_is_in_it():
    for path in MAGI1.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text())


def test_linear_dimensions_are_multiples_of_16(pipe: MagiPipeline):
    linears = [module for module in pipe.transformer.modules() if isinstance(module, torch.nn.Linear)]
    assert linears
    assert all(size % 16 == 0 for linear in linears for size in linear.weight.shape)


def test_the_tokenizer_knows_every_caption_and_nothing_else(pipe: MagiPipeline):
    for item in world.combinations():
        for ids in pipe.tokenizer(world.captions(item)).input_ids:
            assert pipe.tokenizer.unk_token_id not in ids
    assert pipe.tokenizer("zebra").input_ids == [pipe.tokenizer.unk_token_id, pipe.tokenizer.eos_token_id]


def test_the_autoencoder_keeps_the_picture(pipe: MagiPipeline):
    mean, least, kept = vae_quality(pipe, tiles=40)
    assert mean > 33 and least > 30 and kept >= 0.97


def test_a_video_goes_on_from_its_frames(pipe: MagiPipeline):
    story = unseen_stories(1)[0]
    clip = go_on(pipe, story, 0, steps=8)
    given = world.render(story, list(story.motions) * 2, np.random.default_rng(0))
    assert clip.shape == (72, 64, 64, 3)
    assert np.abs(clip[:48] - given).max() < 0.01


def test_a_few_unseen_prompts_are_mostly_right(pipe: MagiPipeline):
    """`make judge` asks for 100."""
    result = judge.success(judge_all(pipe, unseen_stories(5)))
    assert result.looks == 5 and result.motion >= 4


@pytest.mark.slow
def test_an_exported_transformer_is_judged_in_its_place(exported_home: Path):
    command = [sys.executable, "-m", "export.demo.evaluate", "magi1", "--clips", "1", "--continued", "0", "--json"]
    command += ["--precision", "nvfp4", "--home", str(exported_home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    figures = json.loads(done.stdout)
    whole, quantized = figures["judged"]
    assert (whole["precision"], quantized["precision"]) == ("fp32", "nvfp4") and figures["below_the_bars"] == []
    assert whole["everything"] == quantized["everything"] == 1
    assert "already there" in done.stderr  # what the other tests serve is what was judged
