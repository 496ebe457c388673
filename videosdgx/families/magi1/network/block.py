"""One layer of MAGI-1: self-attention and text attention in parallel, then the MLP (docs/specs/magi1.md, sections 3.5 to 3.9).

The same modules run in PyTorch, are trained and are exported; what differs comes from a factory
(`videosdgx.families.layers`), which knows each linear layer by its name in the checkpoint.

Dtypes follow the parameters: a norm computes in the dtype of its weight, and its result is cast to that of the residual
stream. So the same code is the official mixed-precision flow when the listed parameters are fp32 and the others bfloat16,
pure fp32 when all are fp32, and what an engine computes when all norms are fp32 and the rest is in 16 bits.

Shapes: N clips of R chunks of S tokens, P tokens before them, n tokens of text; h hidden size, c condition width, H query
heads and G key/value heads of d numbers.
"""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosdgx.families.layers import EagerLayers, LayerNorm, Layers
from videosdgx.families.magi1.network.embeddings import silu_gated
from videosdgx.families.magi1.network.fp8 import Fp8Linear
from videosdgx.families.magi1.network.rotary import rotate

# Outputs of the two attentions alternate in this many pieces before their joint projection, whatever the number of heads.
INTERLEAVED_PIECES = 8
# The linear layers of a block that the official fp8 format quantizes, and whether their inputs are smoothed.
_FP8 = {
    "q": False, "qx": False, "k": False, "v": False, "linear_proj": True, "linear_fc1": False, "linear_fc2": True,
}  # fmt: skip


def block_name(index: int | str) -> str:
    """What the checkpoint calls layer `index`."""
    return f"videodit_blocks.layers.{index}"


class LayerNormPlusOne(nn.Module):
    """Layer norm that stores its scale minus one; computes in the dtype of its weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over the last dimension."""
        return F.layer_norm(x.to(self.weight.dtype), self.weight.shape, self.weight + 1, self.bias, self.eps)


class WideLinear(nn.Linear):
    """A linear layer without bias whose operands are widened, so that its result is fp32."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., out] fp32."""
        return F.linear(x.float(), self.weight.float())


class OfficialLayers(EagerLayers):
    """Linear layers as the official code has them, those of the layers `fp8_layers` (indices) in its static fp8 format."""

    def __init__(self, fp8_layers: Collection[int] = ()) -> None:
        self._fp8_blocks = tuple(f"{block_name(index)}." for index in fp8_layers)

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """The joint projection of the attentions keeps its fp32 sums unless it is fp8."""
        kind = name.rpartition(".")[2]
        if kind in _FP8 and name.startswith(self._fp8_blocks):
            return Fp8Linear(in_features, out_features, smoothed=_FP8[kind])
        if kind == "linear_proj":
            return WideLinear(in_features, out_features)
        return super().linear(name, in_features, out_features, bias)


OFFICIAL = OfficialLayers()


def attention(query: Tensor, key_value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention.

    Compilers take grouped keys as they are: repeated for each query head they would need three times their memory.

    Args:
        query: [B, S, H, d].
        key_value: [B, K, G, 2d], for each head its key, then its value; query head j uses head j // (H / G).
        mask: bool, broadcastable to [B, H, S, K]; True where a query sees a key. A query that sees none gives zero.

    Returns:
        [B, S, H * d].
    """
    if key_value.shape[1] == 0:
        return torch.zeros_like(query).flatten(2)
    key, value = key_value.chunk(2, dim=-1)
    seeing = None
    if mask is not None:
        seeing = mask.any(dim=-1, keepdim=True)
        mask = mask | ~seeing  # a row without any key would be a softmax over nothing
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    if query.device.type == "cpu" and query.dtype != torch.float32:
        output = _written_out(q.float(), k.float(), v.float(), mask)
    else:
        output = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])
    if seeing is not None:
        output = output * seeing
    return output.transpose(1, 2).flatten(2).to(query.dtype)


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in fp32 [B, H, S, d], of q [B, H, S, d], k and v [B, G, K, d], as the reference has it.

    PyTorch's kernel for a CPU would round the probabilities to 16 bits; in fp32 it adds in another order, and one result that
    is rounded the other way for that reason is amplified by an fp8 layer (see `kernels`).
    """
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


class MagiQKV(nn.Module):
    """The norm before the attentions and their projections from the video tokens."""

    def __init__(self, hidden_size: int, query_size: int, kv_size: int, eps: float, build: Layers, name: str) -> None:
        super().__init__()
        self.layer_norm = LayerNorm(hidden_size, eps)
        self.q = build.linear(f"{name}.q", hidden_size, query_size, bias=False)
        self.qx = build.linear(f"{name}.qx", hidden_size, query_size, bias=False)
        self.k = build.linear(f"{name}.k", hidden_size, kv_size, bias=False)
        self.v = build.linear(f"{name}.v", hidden_size, kv_size, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of [N, S, h]: queries, queries for the text [N, S, H * d], keys, values [N, S, G * d]."""
        z = self.layer_norm(x).to(x.dtype)
        return self.q(z), self.qx(z), self.k(z), self.v(z)


class MagiAttention(nn.Module):
    """Self-attention over the chunks in range and attention to the chunk's text, side by side."""

    def __init__(
        self,
        hidden_size: int,
        text_size: int,
        heads: int,
        groups: int,
        head_dim: int,
        eps: float,
        build: Layers,
        name: str,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.linear_qkv = MagiQKV(hidden_size, heads * head_dim, groups * head_dim, eps, build, f"{name}.linear_qkv")
        self.linear_kv_xattn = build.linear(f"{name}.linear_kv_xattn", text_size, 2 * groups * head_dim, bias=False)
        self.linear_proj = build.linear(f"{name}.linear_proj", 2 * heads * head_dim, hidden_size, bias=False)
        self.q_layernorm = LayerNormPlusOne(head_dim, eps)
        self.k_layernorm = LayerNormPlusOne(head_dim, eps)
        self.q_layernorm_xattn = LayerNormPlusOne(head_dim, eps)
        self.k_layernorm_xattn = LayerNormPlusOne(head_dim, eps)

    def text_states(self, text_tokens: Tensor) -> Tensor:
        """Keys and values [..., n, G, 2d] of text tokens [..., n, text_size]. They don't depend on the time."""
        kv = self.linear_kv_xattn(text_tokens).unflatten(-1, (-1, 2 * self.head_dim))
        key, value = kv.chunk(2, dim=-1)
        return torch.cat([self.k_layernorm_xattn(key).to(text_tokens.dtype), value], dim=-1)

    def project(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of video tokens [N, S, h]: rotated queries and raw text queries [N, S, H, d], keys and values [N, S, G, 2d]."""
        query, text_query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in self.linear_qkv(x))
        query = rotate(self.q_layernorm(query), cosine, sine).to(x.dtype)
        key = rotate(self.k_layernorm(key), cosine, sine).to(x.dtype)
        return query, text_query, torch.cat([key, value], dim=-1)

    def output(self, own: Tensor, cross: Tensor) -> Tensor:
        """The joint projection [N, S, h] of the outputs [N, S, H * d] of the two attentions."""
        pieces = [part.unflatten(-1, (INTERLEAVED_PIECES, -1)) for part in (own, cross)]
        projected: Tensor = self.linear_proj(torch.stack(pieces, dim=-2).flatten(-3))
        return projected


class MagiMLP(nn.Module):
    """Norm, then GELU (erf) or SiLU-gated feed-forward; one half of the tokens after the other if the factory says so."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, eps: float, gated: bool, build: Layers, name: str) -> None:
        super().__init__()
        wide = 2 * ffn_hidden_size if gated else ffn_hidden_size
        self.layer_norm = LayerNorm(hidden_size, eps)
        self.linear_fc1 = build.linear(f"{name}.linear_fc1", hidden_size, wide, bias=False)
        self.linear_fc2 = build.linear(f"{name}.linear_fc2", ffn_hidden_size, hidden_size, bias=False)
        self.activation = silu_gated if gated else F.gelu
        self.halves = build.halves

    def _feed(self, z: Tensor) -> Tensor:
        result: Tensor = self.linear_fc2(self.activation(self.linear_fc1(z)))
        return result

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, h] from [N, S, h]."""
        z = self.layer_norm(x).to(x.dtype)
        if not self.halves:
            return self._feed(z)
        half = x.shape[1] // 2
        return torch.cat([self._feed(part) for part in (z[:, :half], z[:, half:])], dim=1)


class MagiModulation(nn.Module):
    """The gates before their tanh: [..., 2h], first the attention's, then the MLP's."""

    def __init__(self, condition_size: int, hidden_size: int, build: Layers, name: str) -> None:
        super().__init__()
        self.proj = nn.Sequential(build.linear(f"{name}.proj.0", condition_size, 2 * hidden_size))

    def forward(self, condition: Tensor) -> Tensor:
        """From the condition [..., c]."""
        gates: Tensor = self.proj(F.silu(condition))
        return gates


def weigh(update: Tensor, gate: Tensor) -> Tensor:
    """The tokens `update` [N, R * S, h] times their chunk's gate [N, R, h]; a single chunk's is [1, h] and goes for all."""
    if gate.dim() == 2:
        return update * gate
    return (update.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)


class MagiTransformerBlock(nn.Module):
    """One layer. `name` is its name in the checkpoint, by which `build` tells its linear layers apart."""

    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        text_size: int,
        condition_size: int,
        heads: int,
        groups: int,
        head_dim: int,
        eps: float,
        gated: bool,
        build: Layers = OFFICIAL,
        name: str = "",
    ) -> None:
        super().__init__()
        self.ada_modulate_layer = MagiModulation(condition_size, hidden_size, build, f"{name}.ada_modulate_layer")
        own = f"{name}.self_attention"
        self.self_attention = MagiAttention(hidden_size, text_size, heads, groups, head_dim, eps, build, own)
        self.self_attn_post_norm = LayerNormPlusOne(hidden_size, eps)
        self.mlp = MagiMLP(hidden_size, ffn_hidden_size, eps, gated, build, f"{name}.mlp")
        self.mlp_post_norm = LayerNormPlusOne(hidden_size, eps)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        rotary: tuple[Tensor, Tensor],
        text_states: Tensor,
        past: Tensor | None = None,
        mask: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The layer's output and the keys and values of its tokens.

        Either whole clips, which see themselves only (to train), or, if `past` is given, one chunk after those before it.
        What one chunk has no need of, an axis for clips and one for chunks, is left out there, as in caches and engines.

        Args:
            x: [N, R * S, h], the residual stream; of one chunk [1, S, h].
            condition: [N, R, c]; of one chunk [1, c].
            rotary: cosine and sine, each [R * S, 3 * d/8] fp32; of one chunk [S, 1, 3 * d/8].
            text_states: [N * R, n, G, 2d]; of one chunk [n, G, 2d].
            past: [P, G, 2d], keys and values before those of the chunk; none: `x` is whole clips.
            mask: bool, broadcastable to [N, H, R * S, P + R * S]; none: everything sees everything.
            text_mask: bool, broadcastable to [N * R, H, S, n]; none: all tokens count.

        Returns:
            Shaped as `x`, and [N, R * S, G, 2d]; of one chunk [S, G, 2d].
        """
        gates = self.ada_modulate_layer(condition).float().tanh().to(x.dtype).float()
        attention_gate, mlp_gate = gates.chunk(2, dim=-1)
        query, text_query, present = self.self_attention.project(x, *rotary)
        text_norm = self.self_attention.q_layernorm_xattn
        if past is None:
            own = attention(query, present, mask)
            by_chunk = text_norm(text_query).to(x.dtype).unflatten(1, (condition.shape[1], -1)).flatten(0, 1)
            cross = attention(by_chunk, text_states, text_mask).reshape(own.shape)
        else:
            present = present[0]
            own = attention(query, torch.cat([past, present])[None], mask)
            cross = attention(text_norm(text_query).to(x.dtype), text_states[None], text_mask)
        return self.add(x, own, cross, attention_gate, mlp_gate), present

    def add(self, x: Tensor, own: Tensor, cross: Tensor, attention_gate: Tensor, mlp_gate: Tensor) -> Tensor:
        """`x` [N, R * S, h] with what the attentions (outputs [N, R * S, H * d]) and the MLP add to it, summed in fp32.

        The gates (see `weigh`) come before the norms: they weigh channels against each other.
        """
        update = self.self_attention.output(own, cross)
        x = (x.float() + self.self_attn_post_norm(weigh(update.float(), attention_gate))).to(x.dtype)
        return (x.float() + self.mlp_post_norm(weigh(self.mlp(x).float(), mlp_gate))).to(x.dtype)
