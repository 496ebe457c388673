import pytest
import torch
from diffusers import WanTransformer3DModel

from export.checkpoint.random_weights import RandomTensors
from export.families.wan21.constants import constants
from export.families.wan21.lowered import LoweredWanTransformer, WanConfig
from export.families.wan21.recipe import shapes
from export.graph.lowering import Build
from export.quantize.linears import Dtypes
from tests.families.wan21.tiny import random_inputs, random_transformer
from videosdgx.families.wan21.architectures import TRANSFORMERS

FP32 = Dtypes(torch.float32, torch.float32)


@pytest.mark.parametrize(
    "changes",
    [{}, {"image_dim": 24, "added_kv_proj_dim": 48, "in_channels": 36}, {"cross_attn_norm": False, "num_layers": 1}],
    ids=["text", "image", "no cross-attention norm"],
)
def test_equals_diffusers(changes):
    model = random_transformer(**changes)
    config = WanConfig.from_dict(dict(model.config))
    lowered = LoweredWanTransformer(config, Build({}, FP32))
    lowered.load_state_dict(model.state_dict() | constants(config))
    inputs = random_inputs(config)
    with torch.no_grad():
        expected, result = model(**inputs).sample, lowered(**inputs)
    assert result.shape == expected.shape
    assert (result - expected).norm() / expected.norm() < 1e-5


def test_one_full_width_block_equals_diffusers():
    content = TRANSFORMERS["t2v-1.3b"] | {"num_layers": 1}
    config = WanConfig.from_dict(content)
    weights = dict(RandomTensors(shapes(content), 0))
    with torch.device("meta"):
        model, lowered = WanTransformer3DModel.from_config(content).eval(), LoweredWanTransformer(config, Build({}, FP32))
    model.rope = type(model.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)  # no weights: not meta
    model.load_state_dict(weights, assign=True)
    lowered.load_state_dict(weights | constants(config), assign=True)
    inputs = random_inputs(config, batch=1)
    with torch.no_grad():
        expected, result = model(**inputs).sample, lowered(**inputs)
    assert (result - expected).norm() / expected.norm() < 1e-5


def test_rotary_tables_are_diffusers():
    model = random_transformer(attention_head_dim=128, num_attention_heads=1, num_layers=1)
    tables = constants(WanConfig.from_dict(dict(model.config)))
    # diffusers repeats each value for both members of a pair.
    assert torch.equal(tables["rope.cos"], model.rope.freqs_cos[:, 0::2])
    assert torch.equal(tables["rope.sin"], model.rope.freqs_sin[:, 1::2])
