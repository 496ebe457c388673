import pytest
import torch
from torch import Tensor

from export.families.magi1.config import MagiConfig
from export.families.magi1.constants import constants
from export.families.magi1.lowered import Block, LoweredMagiTransformer
from export.families.magi1.lowered_text import LoweredMagiText
from export.graph.lowering import Build
from export.quantize.linears import Dtypes
from tests.families.magi1.tiny import GATED, tiny_transformer
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.block import MagiTransformerBlock
from videosdgx.families.magi1.network.rotary import token_positions

FP32 = Build({}, Dtypes(torch.float32, torch.float32))


def error(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape and result.dtype == expected.dtype
    return float((result - expected).norm() / expected.norm())


def own_part(module: torch.nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name, _ in module.named_parameters()}


@pytest.mark.parametrize("past_chunks", [0, 3])
@pytest.mark.parametrize("changes", [{}, GATED, {"distilled": True}], ids=["gelu", "gated", "distilled"])
def test_equals_the_model(changes, past_chunks):
    model = tiny_transformer(**changes).eval()
    config = MagiConfig.from_dict(dict(model.config))
    tensors = dict(model.state_dict())
    tensors |= constants(tensors)
    chunk, text = LoweredMagiTransformer(config, FP32), LoweredMagiText(config, FP32)
    for lowered in (chunk, text):
        lowered.load_state_dict(own_part(lowered, tensors))
    torch.manual_seed(1)
    latents = torch.randn(1, config.latent_channels, 6, 6, 8)
    positions = token_positions(18, 6, 3, 4)
    heads = (config.num_query_groups, 2 * config.attention_head_dim)
    past = [torch.randn(past_chunks * len(positions), *heads) for _ in range(config.num_layers)]
    step_size = torch.tensor([8.0]) if config.distilled else None
    for flag in (True, False):
        has_text, timestep = torch.tensor([flag]), torch.tensor([0.3])
        with torch.no_grad():
            text_kv = model.encode_text(torch.randn(5, config.caption_channels, generator=torch.Generator().manual_seed(2)))
            features = torch.randn(5, config.caption_channels, generator=torch.Generator().manual_seed(2))
            assert error(text(features), text_kv) < 1e-5
            velocity, present = model.forward_chunk(latents, timestep, has_text, positions, text_kv, past, step_size)
            result = chunk(latents, timestep, has_text, positions, text_kv, past, step_size)
        assert error(result[0], velocity) < 1e-5
        assert all(error(*pair) < 1e-5 for pair in zip(result[1:], present, strict=True))


@pytest.mark.parametrize("variant", ["4.5b-base", "24b-base"])
def test_a_full_width_block_equals_the_models(variant):
    config = MagiConfig.from_dict(TRANSFORMERS[variant])
    if variant.startswith("24b"):  # at half its width it is as telling, and takes a second
        config = MagiConfig.from_dict(TRANSFORMERS[variant] | {"hidden_size": 3072, "num_attention_heads": 24})
    torch.manual_seed(0)
    block = MagiTransformerBlock(
        config.hidden_size,
        config.ffn_hidden_size,
        config.text_size,
        config.condition_size,
        config.num_attention_heads,
        config.num_query_groups,
        config.attention_head_dim,
        config.eps,
        config.gated_linear_unit,
    ).eval()
    lowered = Block("block", config, FP32)
    lowered.load_state_dict(own_part(lowered, dict(block.state_dict())))
    bands = 10000.0 ** (-torch.arange(16) / 16)
    angles = (token_positions(6, 6, 2, 3)[:, :, None] * bands).flatten(1)[:, None]
    cos, sin = angles.cos(), angles.sin()
    x, condition = torch.randn(1, len(angles), config.hidden_size), torch.randn(1, config.condition_size)
    text_kv, past = torch.randn(7, 8, 256), torch.randn(2 * len(angles), 8, 256)
    with torch.no_grad():
        expected, present = block(x, condition, (cos, sin), text_kv, past)
        result, own = lowered(x, condition, cos, sin, text_kv, past)
    assert error(result - x, expected - x) < 1e-5
    assert error(own, present) < 1e-5
