"""The keys and values that MAGI-1's blocks make of a text: the second of its two graphs, run once for each text."""

import torch
from torch import Tensor, nn

from export.families.magi1.config import MagiConfig, block_name
from export.families.magi1.lowered import Fp32LayerNormPlusOne
from export.graph.lowering import Build
from export.quantize.linears import Dtypes, HighLinear

_FP32 = Dtypes(torch.float32, torch.float32)


class TextAttention(nn.Module):
    """What a block makes of the text's tokens."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.head_dim, self.compute = config.attention_head_dim, build.dtypes.compute
        self.linear_kv_xattn = build.linear(f"{name}.linear_kv_xattn", config.text_size, 2 * config.kv_size, bias=False)
        self.k_layernorm_xattn = Fp32LayerNormPlusOne(self.head_dim, config.eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, text_size] -> [n, G, 2d]."""
        key, value = self.linear_kv_xattn(tokens).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, -1)
        return torch.cat([self.k_layernorm_xattn(key).to(self.compute), value], -1)


class _TextBlock(nn.Module):
    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.self_attention = TextAttention(f"{name}.self_attention", config, build)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, text_size] -> [n, G, 2d]."""
        result: Tensor = self.self_attention(tokens)
        return result


class _TextBlocks(nn.Module):
    def __init__(self, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TextBlock(block_name(index), config, build) for index in range(config.num_layers))


class _TextEmbedder(nn.Module):
    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.y_proj_xattn = nn.Sequential(HighLinear(config.caption_channels, config.text_size, _FP32), nn.SiLU())


class LoweredMagiText(nn.Module):
    """The keys and values of a text for every block, constant over all steps."""

    def __init__(self, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.compute = build.dtypes.compute
        self.y_embedder = _TextEmbedder(config)
        self.videodit_blocks = _TextBlocks(config, build)

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:
        """Features [n, caption_channels] fp32 -> text_kv [L, n, G, 2d] in the compute dtype."""
        tokens = self.y_embedder.y_proj_xattn(encoder_hidden_states).to(self.compute)
        return torch.stack([layer(tokens) for layer in self.videodit_blocks.layers])
