"""Wan 2.1's transformer as it is exported: the arithmetic of diffusers' WanTransformer3DModel, written for a compiler.

Differences from diffusers, none of which changes a value: rotary tables are fp32 constants that the graph slices, and
rotated pairs are stacked rather than written into an empty tensor (the compiler then keeps no copy per layer); the
normalizations, modulation and gates are fp32 whatever the compute dtype is. Parameter names are the checkpoint's.

Shapes: B batch, S = f * h * w tokens, d = heads * head dim, L = 512 text tokens (+ 257 image tokens for I2V).
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graph.lowering import Build, Fp32LayerNorm, fp32_parameter
from export.quantize.attention import fp8_attention
from export.quantize.linears import Dtypes, HighLinear
from export.quantize.operators import block as block_mark

TEXT_LENGTH = 512  # the I2V model tells image tokens from text tokens by it, so it is fixed


@dataclass(frozen=True)
class WanConfig:
    """The entries of a transformer's config.json that shape the network (diffusers' names)."""

    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    freq_dim: int
    ffn_dim: int
    num_layers: int
    eps: float = 1e-6
    cross_attn_norm: bool = True
    patch_size: tuple[int, int, int] = (1, 2, 2)
    rope_max_seq_len: int = 1024
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "WanConfig":
        """From the content of config.json; entries that do not shape the network are left out."""
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        known["patch_size"] = tuple(config.get("patch_size", (1, 2, 2)))
        return cls(**known)


class Fp32RmsNorm(nn.Module):
    """RMSNorm over the last axis in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.shape, self.eps = (dim,), eps
        self.weight = fp32_parameter(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] in any dtype -> fp32 of the same shape."""
        return F.rms_norm(x.float(), self.shape, self.weight, self.eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of adjacent pairs: x [B, S, heads, D] fp32, cos and sin [1, S, 1, D/2] fp32."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


class Attention(nn.Module):
    """Self-attention (with rotary embedding) or cross-attention to text and, for I2V, image tokens."""

    def __init__(self, name: str, config: WanConfig, build: Build, image: bool = False) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.compute = config.num_attention_heads, build.dtypes.compute
        self.to_q = build.linear(f"{name}.to_q", dim, dim)
        self.to_k = build.linear(f"{name}.to_k", dim, dim)
        self.to_v = build.linear(f"{name}.to_v", dim, dim)
        self.to_out = nn.ModuleList([build.linear(f"{name}.to_out.0", dim, dim)])
        self.norm_q = Fp32RmsNorm(dim, config.eps)
        self.norm_k = Fp32RmsNorm(dim, config.eps)
        if image:
            added = config.added_kv_proj_dim or dim
            self.add_k_proj = build.linear(f"{name}.add_k_proj", added, dim)
            self.add_v_proj = build.linear(f"{name}.add_v_proj", added, dim)
            self.norm_added_k = Fp32RmsNorm(dim, config.eps)
        self.image = image
        self.fp8 = name in build.fp8_attention
        if self.fp8:
            self.q_scale, self.k_scale, self.v_scale = fp32_parameter(), fp32_parameter(), fp32_parameter()

    def _split(self, x: Tensor) -> Tensor:
        """[B, n, d] -> [B, n, heads, D]."""
        return x.unflatten(-1, (self.heads, -1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Softmax attention in `dtype`; [B, n, heads, D] each -> [B, n, d]."""
        if self.fp8:
            q, k, v = (query * query.shape[-1] ** -0.5).transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            scales = (self.q_scale, self.k_scale, self.v_scale)
            return fp8_attention(q, k, v, scales, self.compute).transpose(1, 2).flatten(2)
        q, k, v = (part.to(dtype).transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor, context: Tensor | None, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """x [B, S, d] -> [B, S, d]; `context` [B, L, d] for cross-attention, `rotary` for self-attention."""
        source = x if context is None else context
        image_tokens = None
        if self.image:
            image_tokens, source = source[:, :-TEXT_LENGTH], source[:, -TEXT_LENGTH:]
        query = self._split(self.norm_q(self.to_q(x)))
        key = self._split(self.norm_k(self.to_k(source)))
        value = self._split(self.to_v(source))
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        attended = self._attend(query, key, value, self.compute)
        if image_tokens is not None:
            image_key = self._split(self.norm_added_k(self.add_k_proj(image_tokens)))
            image_value = self._split(self.add_v_proj(image_tokens))
            # In fp16 also where the rest is bf16: tensorrt_rtx 1.7.1 crashes on two bf16 attentions of the same queries.
            # Queries and keys are normalized, and the values come from 257 normalized tokens, so fp16 holds them all.
            half = torch.float16 if self.compute == torch.bfloat16 else self.compute
            attended = attended + self._attend(query, image_key, image_value, half).to(self.compute)
        return self.to_out[0](attended)


class GeluProjection(nn.Module):
    """The FFN's first layer with its GELU (tanh form); a module of its own as the checkpoint names it `net.0.proj`."""

    def __init__(self, name: str, in_features: int, out_features: int, build: Build) -> None:
        super().__init__()
        self.proj = build.linear(f"{name}.proj", in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """Linear, GELU, Linear; `net.1` is the checkpoint's dropout.

    One half of the tokens goes through after the other: the hidden layer is the largest tensor of the whole network, and
    the compiler needs a third less working memory when only half of it exists at a time (1.3B at 832x480, 81 frames:
    1.50 to 1.03 GB in FP8, 1.65 to 1.06 GB in NVFP4). The weights are in the engine once all the same.
    """

    def __init__(self, name: str, config: WanConfig, build: Build) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                GeluProjection(f"{name}.net.0", config.dim, config.ffn_dim, build),
                nn.Identity(),
                build.linear(f"{name}.net.2", config.ffn_dim, config.dim),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, d] -> [B, S, d]."""
        half = x.shape[1] // 2
        return torch.cat([self.net[2](self.net[0](part)) for part in (x[:, :half], x[:, half:])], 1)


class Block(nn.Module):
    """One transformer block. `name` is its name in the checkpoint, `blocks.<i>`."""

    def __init__(self, name: str, config: WanConfig, build: Build) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = Fp32LayerNorm(dim, eps, affine=False)
        self.attn1 = Attention(f"{name}.attn1", config, build)
        self.norm2 = Fp32LayerNorm(dim, eps, affine=True) if config.cross_attn_norm else nn.Identity()
        self.attn2 = Attention(f"{name}.attn2", config, build, image=config.added_kv_proj_dim is not None)
        self.norm3 = Fp32LayerNorm(dim, eps, affine=False)
        self.ffn = FeedForward(f"{name}.ffn", config, build)
        self.scale_shift_table = fp32_parameter(1, 6, dim)

    def forward(self, x: Tensor, context: Tensor, timestep_proj: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, S, d], context [B, L, d], timestep_proj [B, 6, d] in the compute dtype -> [B, S, d]."""
        shift1, scale1, gate1, shift3, scale3, gate3 = (self.scale_shift_table + timestep_proj.float()).chunk(6, 1)
        y = self.norm1(x) * (1 + scale1) + shift1
        x = (x.float() + self.attn1(y.to(x.dtype), None, (cos, sin)).float() * gate1).to(x.dtype)
        x = x + self.attn2(self.norm2(x).to(x.dtype), context, None)
        y = self.norm3(x) * (1 + scale3) + shift3
        return (x.float() + self.ffn(y.to(x.dtype)).float() * gate3).to(x.dtype)


class BlockMark(nn.Module):
    """Marks where block `index` belongs, so that one block is traced instead of forty."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Same inputs and output as `Block`."""
        return block_mark(x, list(others), self.index)


class TimestepEmbedding(nn.Module):
    """Linear, SiLU, Linear in fp32 (diffusers keeps it so when the model is in bf16)."""

    def __init__(self, in_features: int, dim: int) -> None:
        super().__init__()
        fp32 = Dtypes(torch.float32, torch.float32)
        self.linear_1 = HighLinear(in_features, dim, fp32)
        self.linear_2 = HighLinear(dim, dim, fp32)

    def forward(self, x: Tensor) -> Tensor:
        """[B, freq_dim] -> [B, d], fp32."""
        return self.linear_2(F.silu(self.linear_1(x)))


class TextProjection(nn.Module):
    """Linear, GELU (tanh form), Linear on the text encoder's states."""

    def __init__(self, config: WanConfig, build: Build) -> None:
        super().__init__()
        name = "condition_embedder.text_embedder"
        self.linear_1 = build.linear(f"{name}.linear_1", config.text_dim, config.dim)
        self.linear_2 = build.linear(f"{name}.linear_2", config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 512, text_dim] -> [B, 512, d]."""
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class ImageFeedForward(nn.Module):
    """Linear, GELU (exact), Linear; named as in the checkpoint."""

    def __init__(self, in_features: int, out_features: int, build: Build) -> None:
        super().__init__()
        name = "condition_embedder.image_embedder.ff"
        first = nn.Sequential(OrderedDict(proj=build.linear(f"{name}.net.0.proj", in_features, in_features)))
        last = build.linear(f"{name}.net.2", in_features, out_features)
        self.net = nn.ModuleList([first, nn.Identity(), last])

    def forward(self, x: Tensor) -> Tensor:
        """[B, 257, image_dim] -> [B, 257, d]."""
        return self.net[2](F.gelu(self.net[0](x)))


class ImageEmbedding(nn.Module):
    """CLIP's hidden states to tokens (I2V only)."""

    def __init__(self, image_dim: int, config: WanConfig, build: Build) -> None:
        super().__init__()
        self.norm1 = Fp32LayerNorm(image_dim, 1e-5, affine=True)
        self.ff = ImageFeedForward(image_dim, config.dim, build)
        self.norm2 = Fp32LayerNorm(config.dim, 1e-5, affine=True)
        self.compute = build.dtypes.compute

    def forward(self, x: Tensor) -> Tensor:
        """[B, 257, image_dim] -> [B, 257, d]."""
        return self.norm2(self.ff(self.norm1(x).to(self.compute))).to(self.compute)


class ConditionEmbedder(nn.Module):
    """Timestep and text (and image) to what the blocks are conditioned on."""

    def __init__(self, config: WanConfig, build: Build) -> None:
        super().__init__()
        self.frequencies = fp32_parameter(config.freq_dim // 2)
        self.time_embedder = TimestepEmbedding(config.freq_dim, config.dim)
        self.time_proj = build.linear("condition_embedder.time_proj", config.dim, 6 * config.dim)
        self.text_embedder = TextProjection(config, build)
        if config.image_dim is not None:
            self.image_embedder = ImageEmbedding(config.image_dim, config, build)
        self.compute = build.dtypes.compute

    def forward(self, timestep: Tensor, text: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """timestep [B] fp32, text [B, 512, text_dim], image [B, 257, image_dim] -> temb [B, d], proj [B, 6, d], context."""
        angles = timestep[:, None] * self.frequencies
        temb = self.time_embedder(torch.cat([angles.cos(), angles.sin()], -1)).to(self.compute)
        timestep_proj = self.time_proj(F.silu(temb)).unflatten(1, (6, -1))
        context = self.text_embedder(text)
        if image is not None:
            context = torch.cat([self.image_embedder(image), context], 1)
        return temb, timestep_proj, context


class PatchEmbedding(nn.Module):
    """The convolution over patches, weight [d, C, 1, 2, 2]."""

    def __init__(self, config: WanConfig, dtypes: Dtypes) -> None:
        super().__init__()
        self.stride, self.compute = config.patch_size, dtypes.compute
        shape = (config.dim, config.in_channels, *config.patch_size)
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtypes.storage), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(config.dim, dtype=dtypes.compute), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, H, W] -> [B, S, d]."""
        return F.conv3d(x, self.weight.to(self.compute), self.bias, self.stride).flatten(2).transpose(1, 2)


class RotaryTables(nn.Module):
    """cos and sin [rope_max_seq_len, D/2] in fp32: time first, then rows, then columns."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        head_dim = config.attention_head_dim
        rows = 2 * (head_dim // 6)
        self.widths = [(head_dim - 2 * rows) // 2, rows // 2, rows // 2]
        self.cos = fp32_parameter(config.rope_max_seq_len, head_dim // 2)
        self.sin = fp32_parameter(config.rope_max_seq_len, head_dim // 2)

    def forward(self, f: int, h: int, w: int) -> tuple[Tensor, Tensor]:
        """cos and sin [1, f * h * w, 1, D/2] for tokens in the order time, row, column."""

        def grid(table: Tensor) -> Tensor:
            time, row, column = table.split(self.widths, 1)
            parts = [
                time[:f].reshape(f, 1, 1, -1).expand(f, h, w, -1),
                row[:h].reshape(1, h, 1, -1).expand(f, h, w, -1),
                column[:w].reshape(1, 1, w, -1).expand(f, h, w, -1),
            ]
            return torch.cat(parts, -1).reshape(1, f * h * w, 1, -1)

        return grid(self.cos), grid(self.sin)


class LoweredWanTransformer(nn.Module):
    """The whole transformer; with `marks` each block is only a mark, to be filled in after tracing."""

    def __init__(self, config: WanConfig, build: Build, marks: bool = False) -> None:
        super().__init__()
        self.config, self.compute = config, build.dtypes.compute
        self.rope = RotaryTables(config)
        self.patch_embedding = PatchEmbedding(config, build.dtypes)
        self.condition_embedder = ConditionEmbedder(config, build)
        layers = range(config.num_layers)
        self.blocks = nn.ModuleList(BlockMark(i) if marks else Block(f"blocks.{i}", config, build) for i in layers)
        self.norm_out = Fp32LayerNorm(config.dim, config.eps, affine=False)
        self.proj_out = build.linear("proj_out", config.dim, config.out_channels * math.prod(config.patch_size))
        self.scale_shift_table = fp32_parameter(1, 2, config.dim)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, 16, F, H, W] of latents [B, C, F, H, W], timestep [B], text [B, 512, text_dim], image [B, 257, i].

        Everything in and out is fp32.
        """
        size = zip(hidden_states.shape[2:], self.config.patch_size, strict=True)
        f, h, w = (length // patch for length, patch in size)
        cos, sin = self.rope(f, h, w)
        x = self.patch_embedding(hidden_states.to(self.compute))
        image = None if encoder_hidden_states_image is None else encoder_hidden_states_image.to(self.compute)
        temb, timestep_proj, context = self.condition_embedder(timestep, encoder_hidden_states.to(self.compute), image)
        for block in self.blocks:
            x = block(x, context, timestep_proj, cos, sin)
        shift, scale = (self.scale_shift_table + temb.float().unsqueeze(1)).chunk(2, 1)
        x = self.proj_out((self.norm_out(x) * (1 + scale) + shift).to(self.compute)).float()
        x = x.unflatten(1, (f, h, w)).unflatten(-1, (*self.config.patch_size, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
