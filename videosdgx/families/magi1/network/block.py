"""One layer of MAGI-1: self-attention and text attention in parallel, then the MLP (spec: magi1, sections 3.5 to 3.9).

Dtypes follow the parameters: a norm computes in the dtype of its weight, so the same code is the official mixed-precision
flow when the listed parameters are fp32 and the others bfloat16, and pure fp32 when all are fp32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videosdgx.families.magi1.network.embeddings import silu_gated
from videosdgx.families.magi1.network.fp8 import Fp8Linear
from videosdgx.families.magi1.network.rotary import rotate

# Outputs of the two attentions alternate in this many pieces before their joint projection, whatever the number of heads.
INTERLEAVED_PIECES = 8


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


def attention(query: Tensor, key_value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Grouped-query attention.

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
    if query.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()  # the CPU's kernel would round the probabilities to bfloat16
    output = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])
    if seeing is not None:
        output = output * seeing
    return output.transpose(1, 2).flatten(2).to(query.dtype)


class MagiQKV(nn.Module):
    """The norm before the attentions and their projections from the video tokens."""

    def __init__(self, hidden_size: int, query_size: int, kv_size: int, eps: float, fp8: bool) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(hidden_size, eps)

        def linear(size: int) -> nn.Module:
            return Fp8Linear(hidden_size, size, smoothed=False) if fp8 else nn.Linear(hidden_size, size, bias=False)

        self.q = linear(query_size)
        self.qx = linear(query_size)
        self.k = linear(kv_size)
        self.v = linear(kv_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, queries for the text, keys, values; each [N, S, ...]."""
        z = self.layer_norm(x)
        return self.q(z), self.qx(z), self.k(z), self.v(z)


class MagiAttention(nn.Module):
    """Self-attention over the chunks in range and attention to the chunk's text, side by side."""

    def __init__(
        self, hidden_size: int, text_size: int, heads: int, groups: int, head_dim: int, eps: float, fp8: bool = False
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.linear_qkv = MagiQKV(hidden_size, heads * head_dim, groups * head_dim, eps, fp8)
        self.linear_kv_xattn = nn.Linear(text_size, 2 * groups * head_dim, bias=False)
        joint = 2 * heads * head_dim
        self.linear_proj = Fp8Linear(joint, hidden_size, smoothed=True) if fp8 else WideLinear(joint, hidden_size)
        self.q_layernorm = LayerNormPlusOne(head_dim, eps)
        self.k_layernorm = LayerNormPlusOne(head_dim, eps)
        self.q_layernorm_xattn = LayerNormPlusOne(head_dim, eps)
        self.k_layernorm_xattn = LayerNormPlusOne(head_dim, eps)

    def text_states(self, text_tokens: Tensor) -> Tensor:
        """Keys and values [..., n, G, 2d] of text tokens [..., n, text_size]. They don't depend on the time."""
        kv = self.linear_kv_xattn(text_tokens).unflatten(-1, (-1, 2 * self.head_dim))
        key, value = kv.chunk(2, dim=-1)
        return torch.cat([self.k_layernorm_xattn(key), value], dim=-1)

    def project(self, x: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of video tokens [N, S, h]: rotated queries and text queries [N, S, H, d], keys and values [N, S, G, 2d]."""
        query, text_query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in self.linear_qkv(x))
        query = rotate(self.q_layernorm(query), cosine, sine).to(x.dtype)
        key = rotate(self.k_layernorm(key), cosine, sine).to(x.dtype)
        return query, self.q_layernorm_xattn(text_query), torch.cat([key, value], dim=-1)

    def output(self, own: Tensor, cross: Tensor) -> Tensor:
        """The joint projection [N, S, h] of the outputs [N, S, H * d] of the two attentions; fp32 unless the layer is fp8."""
        pieces = [part.unflatten(-1, (INTERLEAVED_PIECES, -1)) for part in (own, cross)]
        projected: Tensor = self.linear_proj(torch.stack(pieces, dim=-2).flatten(-3))
        return projected


class MagiMLP(nn.Module):
    """Norm, then GELU (erf) or SiLU-gated feed-forward."""

    def __init__(self, hidden_size: int, ffn_hidden_size: int, eps: float, gated: bool, fp8: bool = False) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(hidden_size, eps)
        self.activation = silu_gated if gated else F.gelu
        wide = 2 * ffn_hidden_size if gated else ffn_hidden_size
        self.linear_fc1: nn.Module
        self.linear_fc2: nn.Module
        if fp8:
            self.linear_fc1 = Fp8Linear(hidden_size, wide, smoothed=False)
            self.linear_fc2 = Fp8Linear(ffn_hidden_size, hidden_size, smoothed=True)
        else:
            self.linear_fc1 = nn.Linear(hidden_size, wide, bias=False)
            self.linear_fc2 = nn.Linear(ffn_hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, S, h] from [N, S, h]."""
        result: Tensor = self.linear_fc2(self.activation(self.linear_fc1(self.layer_norm(x))))
        return result


class MagiModulation(nn.Module):
    """The gates before their tanh: [N, R, 2h], first the attention's, then the MLP's."""

    def __init__(self, condition_size: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(condition_size, 2 * hidden_size))

    def forward(self, condition: Tensor) -> Tensor:
        """From the condition [N, R, c]."""
        gates: Tensor = self.proj(F.silu(condition))
        return gates


class MagiTransformerBlock(nn.Module):
    """One layer. Chunks are rows of tokens: [N, R * tokens per chunk, h]."""

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
        fp8: bool = False,
    ) -> None:
        super().__init__()
        self.ada_modulate_layer = MagiModulation(condition_size, hidden_size)
        self.self_attention = MagiAttention(hidden_size, text_size, heads, groups, head_dim, eps, fp8)
        self.self_attn_post_norm = LayerNormPlusOne(hidden_size, eps)
        self.mlp = MagiMLP(hidden_size, ffn_hidden_size, eps, gated, fp8)
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

        Args:
            x: [N, R * S, h], the residual stream.
            condition: [N, R, c].
            rotary: cosine and sine, each [R * S, 3 * d/8].
            text_states: [N * R, n, G, 2d].
            past: [N, P, G, 2d], keys and values before those of `x`.
            mask: bool, broadcastable to [N, H, R * S, P + R * S]; none: everything sees everything.
            text_mask: bool, broadcastable to [N * R, H, S, n]; none: all tokens count.

        Returns:
            [N, R * S, h] and [N, R * S, G, 2d].
        """
        chunks = condition.shape[1]
        gates = self.ada_modulate_layer(condition).float().tanh().to(x.dtype)
        attention_gate, mlp_gate = gates.chunk(2, dim=-1)

        query, text_query, present = self.self_attention.project(x, *rotary)
        keys_values = present if past is None else torch.cat([past, present], dim=1)
        own = attention(query, keys_values, mask)
        by_chunk = text_query.unflatten(1, (chunks, -1)).flatten(0, 1)
        cross = attention(by_chunk, text_states, text_mask).reshape(own.shape)
        x = self._add(x, self.self_attention.output(own, cross), attention_gate, self.self_attn_post_norm)
        x = self._add(x, self.mlp(x), mlp_gate, self.mlp_post_norm)
        return x, present

    @staticmethod
    def _add(x: Tensor, update: Tensor, gate: Tensor, norm: LayerNormPlusOne) -> Tensor:
        """The residual sum in fp32. The gate comes before the norm: it weighs channels against each other."""
        gated = update.float().unflatten(1, (gate.shape[1], -1)) * gate.float()[:, :, None]
        return (x.float() + norm(gated.flatten(1, 2))).to(x.dtype)
