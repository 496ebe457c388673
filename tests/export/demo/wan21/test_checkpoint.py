"""The committed Wan 2.1 demo: what is on disk, and that its text steers its video."""

import json

import pytest
import torch
from diffusers import WanPipeline
from safetensors import safe_open
from transformers import AutoTokenizer

from export.demo import text, world
from export.demo.checkpoint import WAN21, load_wan21
from export.demo.judge import success
from export.demo.wan21 import train_transformer
from export.demo.wan21.evaluate import generate, unseen_prompts


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return load_wan21()


def test_all_weights_are_safetensors_in_fp32_and_small():
    files = [path for path in WAN21.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".md", ".safetensors"}
    assert sum(path.stat().st_size for path in files) < 10e6
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as weights:
                assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F32"}  # noqa: SIM118


def test_the_parts_are_those_of_wan21():
    index = json.loads((WAN21 / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    names = {part: index[part][1] for part in ("transformer", "vae", "text_encoder", "scheduler")}
    assert names == {
        "transformer": "WanTransformer3DModel",
        "vae": "AutoencoderKLWan",
        "text_encoder": "UMT5EncoderModel",
        "scheduler": "UniPCMultistepScheduler",
    }
    scheduler = json.loads((WAN21 / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], scheduler["use_flow_sigmas"]) == ("flow_prediction", True)
    assert scheduler["flow_shift"] == 3.0


def test_from_pretrained_loads_it():
    pytest.importorskip("accelerate", reason="diffusers loads the Wan transformer only with accelerate")
    assert WanPipeline.from_pretrained(WAN21).transformer.config.num_layers == 4


def test_linear_dimensions_are_multiples_of_16(pipe: WanPipeline):
    linears = [module for module in pipe.transformer.modules() if isinstance(module, torch.nn.Linear)]
    assert linears
    assert all(size % 16 == 0 for linear in linears for size in linear.weight.shape)


def test_the_tokenizer_knows_every_caption_and_nothing_else():
    tokenizer = AutoTokenizer.from_pretrained(WAN21 / "tokenizer")
    for item in world.combinations():
        assert tokenizer.unk_token_id not in tokenizer(world.captions(item)).input_ids[0]
    assert tokenizer("A RED circle").input_ids == tokenizer("a red circle").input_ids
    assert tokenizer("zebra").input_ids == [tokenizer.unk_token_id, tokenizer.eos_token_id]


def test_the_training_bias_stands_for_the_padding_of_the_pipeline(pipe: WanPipeline):
    transformer = load_wan21().transformer
    states, lengths = text.embed(pipe.tokenizer, pipe.text_encoder, ["a red circle growing on black", ""])
    states = torch.nn.functional.pad(states, (0, 0, 0, 1))
    noise = torch.randn(2, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    timestep = torch.tensor([900.0, 400.0])
    padded = train_transformer.PaddedText()
    with torch.no_grad():
        full = torch.nn.functional.pad(states, (0, 0, 0, 512 - states.shape[1]))
        expected = transformer(noise, timestep, full, return_dict=False)[0]
        for block in transformer.blocks:
            block.attn2.set_processor(padded)
        padded.set_lengths(lengths, states.shape[1])
        short = transformer(noise, timestep, states, return_dict=False)[0]
    torch.testing.assert_close(short, expected, atol=1e-4, rtol=1e-4)


def test_a_few_unseen_prompts_are_mostly_right(pipe: WanPipeline):
    wanted, prompts = zip(*unseen_prompts(6), strict=True)
    clips = list(generate(pipe, list(prompts), steps=10))
    assert success(clips, wanted).all_four >= 5


def test_a_single_frame_shows_the_picture(pipe: WanPipeline):
    picture = pipe(
        "a yellow square moving left on a purple background",
        height=64,
        width=64,
        num_frames=1,
        num_inference_steps=10,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    ).frames
    assert picture.shape == (1, 1, 64, 64, 3)
