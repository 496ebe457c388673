"""The one network, made of an export's layers, against itself made of PyTorch's."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from export.families.magi1.config import MagiConfig, block_name
from export.families.magi1.constants import constants
from export.families.magi1.traced import Block, BlockMark, ChunkFrame, Text
from export.graph.lowering import Build
from export.quantize.linears import Dtypes, Fp8Linear, HighLinear
from tests.families.magi1.tiny import GATED, tiny_transformer
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.block import MagiTransformerBlock
from videosdgx.families.magi1.network.rotary import token_positions
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

FP32 = Build({}, Dtypes(torch.float32, torch.float32))
BF16 = Build({}, Dtypes(torch.bfloat16, torch.bfloat16))


def error(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape and result.dtype == expected.dtype
    return float((result.float() - expected.float()).norm() / expected.float().norm())


def own_part(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name, _ in module.named_parameters()}


def exported(model: MagiTransformer3DModel, build: Build) -> MagiTransformer3DModel:
    """The same network with the same weights, made of `build`'s layers."""
    network = MagiTransformer3DModel(**asdict(MagiConfig.from_dict(dict(model.config))), build=build).eval()
    tensors = dict(model.state_dict())
    network.load_state_dict(tensors | constants(tensors))
    return network


def chunk_inputs(config: MagiConfig, past_chunks: int) -> dict[str, object]:
    """Those of `forward_chunk`, but for the text's keys and values."""
    torch.manual_seed(1)
    positions = token_positions(18, 6, 3, 4)
    heads = (config.num_query_groups, 2 * config.attention_head_dim)
    return {
        "hidden_states": torch.randn(1, config.latent_channels, 6, 6, 8),
        "timestep": torch.tensor([0.3]),
        "positions": positions,
        "past": [torch.randn(past_chunks * len(positions), *heads) for _ in range(config.num_layers)],
        "step_size": torch.tensor([8.0]) if config.distilled else None,
    }


def test_what_runs_what_is_trained_and_what_is_exported_is_one_network():
    config = MagiConfig.from_dict(dict(tiny_transformer().config))
    formats = {f"{block_name(1)}.mlp.linear_fc1": "fp8"}
    for traced in (ChunkFrame, Text):
        assert issubclass(traced, MagiTransformer3DModel)
    assert issubclass(Block, MagiTransformerBlock)
    own = dict(tiny_transformer().named_modules())
    network = MagiTransformer3DModel(**asdict(config), build=Build(formats, FP32.dtypes))
    made = dict(network.named_modules())
    assert own.keys() == made.keys()
    different = {name for name in own if name and type(own[name]) is not type(made[name])}
    # Nothing differs but the linear layers of the blocks, which are of the formats asked for.
    assert different == {name for name in own if "layers" in name and isinstance(own[name], nn.Linear)}
    assert {name for name in different if isinstance(made[name], Fp8Linear)} == set(formats)
    assert all(isinstance(made[name], HighLinear) for name in different - set(formats))
    # In the chunk's graph the blocks are marks; they are traced alone.
    assert all(isinstance(layer, BlockMark) for layer in ChunkFrame(config, FP32).layers)


@pytest.mark.parametrize("past_chunks", [0, 3])
@pytest.mark.parametrize("changes", [{}, GATED, {"distilled": True}], ids=["gelu", "gated", "distilled"])
def test_an_exports_layers_give_what_pytorchs_give(changes, past_chunks):
    model = tiny_transformer(**changes).eval()
    config, network = MagiConfig.from_dict(dict(model.config)), exported(model, FP32)
    features = torch.randn(5, config.caption_channels, generator=torch.Generator().manual_seed(2))
    given = chunk_inputs(config, past_chunks)
    with torch.no_grad():
        text_kv = model.encode_text(features)
        assert torch.equal(network.encode_text(features), text_kv)
        for flag in (True, False):
            given |= {"has_text": torch.tensor([flag]), "text_states": text_kv}
            velocity, present = model.forward_chunk(**given)
            result, own = network.forward_chunk(**given)
            # The MLP takes the tokens in halves, and a product of fewer rows may be summed in another order.
            assert error(result, velocity) < 1e-6
            assert all(error(*pair) < 1e-6 for pair in zip(own, present, strict=True))


def test_in_16_bits_it_is_the_official_flow_but_for_norms_and_the_joint_projection():
    model = tiny_transformer().eval()
    config, network = MagiConfig.from_dict(dict(model.config)), exported(model, BF16)
    assert network.compute_dtype == torch.bfloat16
    kept = {name for name, parameter in network.named_parameters() if parameter.dtype == torch.float32}
    norms = {name for name, _ in network.named_parameters() if "norm" in name}
    assert norms < kept and not any("linear_" in name for name in kept - norms - {"final_linear.linear.weight"})
    wide = exported(model, FP32)
    given = chunk_inputs(config, 2) | {"has_text": torch.tensor([True])}
    with torch.no_grad():
        features = torch.randn(5, config.caption_channels)
        expected, _ = wide.forward_chunk(**given, text_states=wide.encode_text(features))
        given["past"] = [past.bfloat16() for past in given["past"]]
        result, present = network.forward_chunk(**given, text_states=network.encode_text(features))
        official, _ = model.to_compute_dtype(torch.bfloat16).forward_chunk(**given, text_states=model.encode_text(features))
    assert all(kv.dtype == torch.bfloat16 for kv in present)
    assert error(result, expected) < 1.5 * error(official, expected) < 0.05


@pytest.mark.parametrize("variant", ["4.5b-base", "24b-base"])
def test_a_full_width_block_gives_what_pytorchs_gives(variant):
    config = MagiConfig.from_dict(TRANSFORMERS[variant])
    if variant.startswith("24b"):  # at half its width it is as telling, and takes a second
        config = MagiConfig.from_dict(TRANSFORMERS[variant] | {"hidden_size": 3072, "num_attention_heads": 24})
    torch.manual_seed(0)
    block = MagiTransformerBlock(**config.block).eval()
    traced = Block(0, config, FP32)
    traced.load_state_dict(own_part(traced, dict(block.state_dict())))
    bands = 10000.0 ** (-torch.arange(16) / 16)
    angles = (token_positions(6, 6, 2, 3)[:, :, None] * bands).flatten(1)[:, None]
    cos, sin = angles.cos(), angles.sin()
    x, condition = torch.randn(1, len(angles), config.hidden_size), torch.randn(1, config.condition_size)
    text_kv, past = torch.randn(7, 8, 256), torch.randn(2 * len(angles), 8, 256)
    with torch.no_grad():
        expected, present = block(x, condition, (cos, sin), text_kv, past)
        result, own = traced(x, condition, cos, sin, text_kv, past)
        # As the training runs it: a clip of one chunk, which sees nothing before it, with axes for clips and chunks.
        alone, _ = block(x, condition, (cos, sin), text_kv, past[:0])
        clip, kv = block(x, condition[:, None], (cos[:, 0], sin[:, 0]), text_kv[None])
    assert error(result - x, expected - x) < 1e-5
    assert error(own, present) < 1e-5
    assert error(clip - x, alone - x) < 1e-5 and error(kv[0], present) < 1e-5
