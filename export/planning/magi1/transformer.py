"""The work of MAGI-1's transformer, counted on its real modules on the meta device, chunk by chunk as the engine runs.

Shapes: S tokens a chunk, P chunks of keys and values before it, h the width, n tokens of text.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from export.families.magi1.config import MagiConfig
from export.families.magi1.policy import formats
from export.planning.gb10 import Arithmetic
from export.planning.operations import VALUE, attention, linear
from export.planning.work import Kept, Operation
from export.quantize.linears import Format
from videosdgx.families.magi1.network.transformer import PATCH, MagiTransformer3DModel

CHUNK_WIDTH = 6  # latent frames
TEXT_TOKENS = 200  # of a long prompt
SEEN_CHUNKS = 5  # the most that a chunk attends to, itself included
_BYTES: dict[Format, float] = {"high": 2, "fp8": 1, "nvfp4": 0.5 + 1 / 16}  # per weight
_ARITHMETIC: dict[Format, Arithmetic] = {"high": "fp16", "fp8": "fp8", "nvfp4": "nvfp4"}

# Passes over S x h values beside the matrix products of a layer, if each of these is one fused kernel that reads its
# inputs and writes its result: norm 2, q 2, text q 2, interleaved attention outputs 4, gate, norm and residual 4 (the
# projection is fp32); norm 2, gate, norm and residual 3. The activation is fused with the product before it.
_LAYER_PASSES = 19


class Shape:
    """One variant's transformer, without weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config) | {"fp8_layers": ()}  # what is quantized here is the export's choice
        with torch.device("meta"):
            self.model = MagiTransformer3DModel.from_config(self.config).to_compute_dtype(torch.bfloat16).eval()

    def tokens(self, height: int, width: int) -> int:
        """S for latents of `height` x `width`."""
        return CHUNK_WIDTH * (height // PATCH) * (width // PATCH)

    @property
    def layers(self) -> int:
        """Number of layers (L)."""
        layers: int = self.config["num_layers"]
        return layers

    @property
    def kv_width(self) -> int:
        """Channels of the keys, and of the values."""
        width: int = self.config["num_query_groups"] * self.config["attention_head_dim"]
        return width

    def _formats(self, precision: str) -> dict[str, Format]:
        """The quantized linear layers by name, as the export quantizes them."""
        return formats(MagiConfig.from_dict(self.config), precision)

    def weights_bytes(self, precision: str) -> float:
        """Bytes of the weights: those that stay fp32 in the official flow in fp32, quantized ones in their format."""
        quantized = self._formats(precision)
        return sum(
            parameter.numel() * _BYTES[quantized.get(name.removesuffix(".weight"), "high")]
            if parameter.dtype == torch.bfloat16
            else parameter.nbytes
            for name, parameter in self.model.named_parameters()
        )

    def kept(self, tokens: int, chunks: int) -> Kept:
        """Keys and values of `chunks` chunks, which stay between runs, in 16 bits."""
        return Kept("keys and values of a chunk", self.layers * tokens * 2 * self.kv_width * VALUE, chunks)

    def activation_bytes(self, precision: str, tokens: int) -> float:
        """Estimate of the memory of one chunk's forward: the larger of what lives in attention and around the MLP.

        Attention: q in fp32 before and after rotation and again in 16 bits, text q, the residual stream, the layer's input:
        26 bytes per token and channel as for Wan; and the joined keys and values of all chunks. MLP: residual stream and
        input, and the middle before and after the activation; in NVFP4 about a byte more for each value of it.
        """
        h, ffn = self.config["hidden_size"], self.config["ffn_hidden_size"]
        middle = 1.5 * ffn if self.config["gated_linear_unit"] else ffn  # mean of what goes in and out of the activation
        attending = 26 * h + 2 * self.kv_width * VALUE * SEEN_CHUNKS
        feeding = 2 * VALUE * (h + middle) + (ffn if precision == "nvfp4" else 0)
        return tokens * max(attending, feeding)

    def _rows(self, name: str, tokens: int) -> int:
        """How many rows go through the linear layer `name` in a chunk's forward; none if it belongs to the text."""
        if name.startswith("y_embedder.y_proj_xattn") or name.endswith("linear_kv_xattn"):
            return 0
        if name.startswith("y_embedder.y_proj_adaln"):
            return 2  # both flags
        if name.startswith("t_embedder"):
            return 2 if self.config.get("distilled") else 1  # the time, and the step size
        return 1 if "ada_modulate_layer" in name else tokens

    def chunk_operations(
        self,
        precision: str,
        tokens: int,
        past: Mapping[int, float],
        attend: Arithmetic = "fp16",
        text_tokens: int = TEXT_TOKENS,
    ) -> tuple[Operation, ...]:
        """All operations of one chunk's forward; `past` tells for each number P of chunks before it how often it occurs
        (shares that sum to 1), and the operations are the mean.
        """
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        quantized = self._formats(precision)
        h = self.config["hidden_size"]
        found = [Operation("elementwise", "fp32", 0, self.layers * _LAYER_PASSES * VALUE * tokens * h)]
        for name, module in self.model.named_modules():
            rows = self._rows(name, tokens)
            if isinstance(module, nn.Linear) and rows:
                chosen = quantized.get(name, "high")
                arithmetic = _ARITHMETIC[chosen] if module.weight.dtype == torch.bfloat16 else "fp32"
                size = module.weight.numel() * (_BYTES[chosen] if arithmetic != "fp32" else 4)
                found.append(linear(name, arithmetic, rows, module.in_features, module.out_features, size))
            elif isinstance(module, nn.Conv3d):
                inputs = module.weight[0].numel()
                found.append(linear(name, "fp32", tokens, inputs, h, module.weight.nbytes))
        for index in range(self.layers):
            name = f"videodit_blocks.layers.{index}.self_attention"
            for chunks, share in past.items():
                own = attention(f"{name} to {chunks} chunks", attend, tokens, (chunks + 1) * tokens, width, self.kv_width)
                found.append(Operation(own.name, own.arithmetic, share * own.flops, share * own.bytes))
            found.append(attention(f"{name} to the text", attend, tokens, text_tokens, width, self.kv_width))
        return tuple(found)
