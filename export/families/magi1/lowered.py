"""MAGI-1's transformer as it is exported: the arithmetic of `MagiTransformer3DModel`, written for a compiler.

It is the first of two graphs (see `videosdgx.families.magi1.engine.graphs`): one chunk, given the keys and values before it
and those of the text, which the other one makes (`lowered_text.py`). Parameter names are the checkpoint's.

Dtypes follow the precision map (spec: magi1, section 3.9): the residual stream, products and attention are in the compute
dtype, norms, rotary embedding, gates and sums in fp32, and so are the embeddings of latents, time and text and the head. One
thing differs where the compute dtype is not fp32: the joint projection of the attentions, whose fp32 sums the official code
keeps, is rounded once to the compute dtype, as it is in the official fp8 layers.

Shapes: S tokens of the chunk, P tokens before it, n tokens of the text, h hidden size, H query heads and G key/value heads
of d numbers, c condition width, L layers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.families.magi1.config import PATCH, MagiConfig, block_name
from export.graph.lowering import Build, Fp32LayerNorm, fp32_parameter
from export.quantize.linears import Dtypes, HighLinear
from export.quantize.operators import cached_block

FREQUENCIES = 256  # of the sinusoid of a time
INTERLEAVED_PIECES = 8
_FP32 = Dtypes(torch.float32, torch.float32)


class Fp32LayerNormPlusOne(Fp32LayerNorm):
    """LayerNorm in fp32 that stores its scale minus one."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim, eps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] in any dtype -> fp32 of the same shape."""
        assert self.weight is not None
        return F.layer_norm(x.float(), self.shape, self.weight + 1, self.bias, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding by halves of the first 6/8 of the channels: x [1, S, heads, d] fp32, cos and sin [S, 1, 3d/8] fp32."""
    n = cos.shape[-1]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def attend(query: Tensor, key_value: Tensor) -> Tensor:
    """Softmax attention of query [1, S, H, d] to key_value [K, G, 2d] (for each head its key, then its value) -> [1, S, Hd].

    The compiler takes grouped keys as they are: repeated for each query head they would need three times their memory.
    """
    key, value = key_value[None].chunk(2, -1)
    q, k, v = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2).flatten(2)


class LinearQKV(nn.Module):
    """The norm before the attentions and the projections from the chunk's tokens."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        hidden, self.compute = config.hidden_size, build.dtypes.compute
        self.layer_norm = Fp32LayerNorm(hidden, config.eps, affine=True)
        self.q = build.linear(f"{name}.q", hidden, config.query_size, bias=False)
        self.qx = build.linear(f"{name}.qx", hidden, config.query_size, bias=False)
        self.k = build.linear(f"{name}.k", hidden, config.kv_size, bias=False)
        self.v = build.linear(f"{name}.v", hidden, config.kv_size, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [1, S, h] -> queries, queries to the text [1, S, Hd], keys, values [1, S, Gd]."""
        z = self.layer_norm(x).to(self.compute)
        return self.q(z), self.qx(z), self.k(z), self.v(z)


class Attention(nn.Module):
    """Self-attention over the chunk and those before it, and attention to the text, side by side."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.head_dim, self.compute = config.attention_head_dim, build.dtypes.compute
        self.linear_qkv = LinearQKV(f"{name}.linear_qkv", config, build)
        self.linear_proj = build.linear(f"{name}.linear_proj", 2 * config.query_size, config.hidden_size, bias=False)
        self.q_layernorm = Fp32LayerNormPlusOne(self.head_dim, config.eps)
        self.k_layernorm = Fp32LayerNormPlusOne(self.head_dim, config.eps)
        self.q_layernorm_xattn = Fp32LayerNormPlusOne(self.head_dim, config.eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, text_kv: Tensor, past_kv: Tensor) -> tuple[Tensor, Tensor]:
        """x [1, S, h] -> [1, S, h], and the keys and values [S, G, 2d] of the chunk."""
        query, text_query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in self.linear_qkv(x))
        query = rotate(self.q_layernorm(query), cos, sin).to(self.compute)
        key = rotate(self.k_layernorm(key), cos, sin).to(self.compute)
        present_kv = torch.cat([key, value], -1)[0]
        own = attend(query, torch.cat([past_kv, present_kv], 0))
        cross = attend(self.q_layernorm_xattn(text_query).to(self.compute), text_kv)
        pieces = [part.unflatten(-1, (INTERLEAVED_PIECES, -1)) for part in (own, cross)]
        return self.linear_proj(torch.stack(pieces, -2).flatten(-3)), present_kv


class Mlp(nn.Module):
    """Norm, Linear, GELU (erf) or SiLU gate, Linear; one half of the tokens after the other, as in Wan's feed-forward."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        hidden, ffn = config.hidden_size, config.ffn_hidden_size
        self.compute, self.gated = build.dtypes.compute, config.gated_linear_unit
        self.layer_norm = Fp32LayerNorm(hidden, config.eps, affine=True)
        self.linear_fc1 = build.linear(f"{name}.linear_fc1", hidden, 2 * ffn if self.gated else ffn, bias=False)
        self.linear_fc2 = build.linear(f"{name}.linear_fc2", ffn, hidden, bias=False)

    def _part(self, z: Tensor) -> Tensor:
        wide = self.linear_fc1(z)
        if self.gated:
            gate, value = wide.float().chunk(2, -1)
            return self.linear_fc2((F.silu(gate) * value).to(self.compute))
        return self.linear_fc2(F.gelu(wide))

    def forward(self, x: Tensor) -> Tensor:
        """[1, S, h] -> [1, S, h]."""
        z = self.layer_norm(x).to(self.compute)
        half = x.shape[1] // 2
        return torch.cat([self._part(part) for part in (z[:, :half], z[:, half:])], 1)


class Modulation(nn.Module):
    """The gates of a block; a module of its own as the checkpoint names it `ada_modulate_layer.proj.0`."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        self.compute = build.dtypes.compute
        self.proj = nn.Sequential(build.linear(f"{name}.proj.0", config.condition_size, 2 * config.hidden_size))

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """condition [1, c] -> the attention's and the MLP's gates [1, h], rounded to the compute dtype, as fp32."""
        gates = self.proj(F.silu(condition)).float().tanh().to(self.compute).float()
        attention, mlp = gates.chunk(2, -1)
        return attention, mlp


class Block(nn.Module):
    """One transformer block. `name` is its name in the checkpoint."""

    def __init__(self, name: str, config: MagiConfig, build: Build) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.eps
        self.ada_modulate_layer = Modulation(f"{name}.ada_modulate_layer", config, build)
        self.self_attention = Attention(f"{name}.self_attention", config, build)
        self.self_attn_post_norm = Fp32LayerNormPlusOne(hidden, eps)
        self.mlp = Mlp(f"{name}.mlp", config, build)
        self.mlp_post_norm = Fp32LayerNormPlusOne(hidden, eps)

    def forward(
        self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, text_kv: Tensor, past_kv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x [1, S, h], condition [1, c], cos and sin [S, 1, 3d/8], text_kv [n, G, 2d], past_kv [P, G, 2d] -> x, present_kv."""
        attention_gate, mlp_gate = self.ada_modulate_layer(condition)
        update, present_kv = self.self_attention(x, cos, sin, text_kv, past_kv)
        x = (x.float() + self.self_attn_post_norm(update.float() * attention_gate)).to(x.dtype)
        x = (x.float() + self.mlp_post_norm(self.mlp(x).float() * mlp_gate)).to(x.dtype)
        return x, present_kv


class BlockMark(nn.Module):
    """Marks where block `index` belongs, so that one block is traced instead of forty-eight."""

    def __init__(self, index: int, config: MagiConfig) -> None:
        super().__init__()
        self.index, self.groups, self.width = index, config.num_query_groups, 2 * config.attention_head_dim

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        """Same inputs and outputs as `Block`."""
        return cached_block(x, list(others), self.index, self.groups, self.width)


class TimestepEmbedder(nn.Module):
    """Sinusoid, Linear, SiLU, Linear, in fp32 but for the sinusoid, which is rounded as the official code does."""

    def __init__(self, condition_size: int, compute: torch.dtype) -> None:
        super().__init__()
        self.compute = compute
        self.frequencies = fp32_parameter(FREQUENCIES // 2)
        layers = [HighLinear(FREQUENCIES, condition_size, _FP32), nn.SiLU(), HighLinear(condition_size, condition_size, _FP32)]
        self.mlp = nn.Sequential(*layers)

    def forward(self, timestep: Tensor) -> Tensor:
        """[1] -> [1, c]."""
        angles = timestep[:, None] * self.frequencies * 1000.0
        result: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(self.compute).float())
        return result


class Flags(nn.Module):
    """What stands for "has text" and for "no text", computed from the null caption once and for all (section 3.4)."""

    def __init__(self, condition_size: int) -> None:
        super().__init__()
        self.flags = fp32_parameter(2, condition_size)

    def forward(self, has_text: Tensor) -> Tensor:
        """Bool [1] -> [1, c]."""
        return torch.where(has_text[:, None], self.flags[0], self.flags[1])


class PatchEmbedding(nn.Module):
    """The convolution over patches of 1 x 2 x 2 in fp32."""

    def __init__(self, config: MagiConfig, compute: torch.dtype) -> None:
        super().__init__()
        self.scale, self.twice, self.compute = config.x_rescale_factor, config.half_channel_vae, compute
        self.weight = fp32_parameter(config.hidden_size, config.in_channels, 1, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, T, H, W] -> [1, S, h] in the compute dtype."""
        scaled = x * self.scale
        if self.twice:
            scaled = torch.cat([scaled, scaled], 1)
        return F.conv3d(scaled, self.weight, None, (1, PATCH, PATCH)).flatten(2).transpose(1, 2).to(self.compute)


class Rotary(nn.Module):
    """Angles from positions, with the learned frequencies `bands`."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.bands = fp32_parameter(head_dim // 8)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[S, 3] fp32 -> cos and sin, each [S, 1, 3d/8] fp32."""
        angles = (positions[:, :, None] * self.bands).flatten(1)[:, None]
        return angles.cos(), angles.sin()


class _Blocks(nn.Module):
    def __init__(self, layers: Sequence[nn.Module], config: MagiConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.final_layernorm = Fp32LayerNormPlusOne(config.hidden_size, config.eps)


class _Head(nn.Module):
    def __init__(self, config: MagiConfig) -> None:
        super().__init__()
        self.linear = HighLinear(config.hidden_size, PATCH * PATCH * config.out_channels, _FP32, bias=False)


class LoweredMagiTransformer(nn.Module):
    """The forward of one chunk; with `marks` each block is only a mark, to be filled in after tracing."""

    def __init__(self, config: MagiConfig, build: Build, marks: bool = False) -> None:
        super().__init__()
        self.config, self.compute = config, build.dtypes.compute
        self.x_embedder = PatchEmbedding(config, self.compute)
        self.t_embedder = TimestepEmbedder(config.condition_size, self.compute)
        self.y_embedder = Flags(config.condition_size)
        self.rope = Rotary(config.attention_head_dim)
        indices = range(config.num_layers)
        layers = [BlockMark(i, config) if marks else Block(block_name(i), config, build) for i in indices]
        self.videodit_blocks = _Blocks(layers, config)
        self.final_linear = _Head(config)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        has_text: Tensor,
        positions: Tensor,
        text_kv: Tensor,
        past_kv: Sequence[Tensor],
        step_size: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Velocity [1, C, T, H, W] fp32, then present_kv [S, G, 2d] of every layer, as `forward_chunk` of the model.

        hidden_states [1, C, T, H, W], timestep [1], positions [S, 3] and step_size [1] are fp32, has_text is bool [1]; text_kv
        [L, n, G, 2d] and past_kv (of every layer [P, G, 2d]) are in the compute dtype.
        """
        cos, sin = self.rope(positions)
        condition = self.t_embedder(timestep)
        if step_size is not None:
            condition = condition + self.t_embedder(step_size)
        condition = (condition + self.y_embedder(has_text)).to(self.compute)
        x = self.x_embedder(hidden_states)
        present = []
        for index, layer in enumerate(self.videodit_blocks.layers):
            x, present_kv = layer(x, condition, cos, sin, text_kv[index], past_kv[index])
            present.append(present_kv)
        return (self._velocity(x, *hidden_states.shape[2:]), *present)

    def _velocity(self, x: Tensor, frames: int, height: int, width: int) -> Tensor:
        """[1, S, h] -> [1, C, T, H, W] fp32; of the head's outputs the channel is innermost."""
        output = self.final_linear.linear(self.videodit_blocks.final_layernorm(x))
        patches = output.unflatten(1, (frames, height // PATCH, width // PATCH)).unflatten(-1, (PATCH, PATCH, -1))
        video = patches[..., : self.config.latent_channels].permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return video / self.config.x_rescale_factor
