"""The shapes of MAGI-1's published transformers, as `MagiTransformer3DModel` is configured (docs/specs/magi1.md, section 1.1).

They are needed where there is no checkpoint: for an export with random weights, and for planning; and to convert one.
"""

from typing import Any

_COMMON: dict[str, Any] = {
    "num_query_groups": 8,
    "attention_head_dim": 128,
    "caption_channels": 4096,
    "caption_max_length": 800,
    "cond_hidden_ratio": 0.25,
    "xattn_cond_hidden_ratio": 1.0,
    "eps": 1e-6,
}
_4_5B = _COMMON | {
    "num_layers": 34,
    "hidden_size": 3072,
    "ffn_hidden_size": 12288,
    "num_attention_heads": 24,
    "in_channels": 16,
    "out_channels": 16,
    "half_channel_vae": False,
    "x_rescale_factor": 1.0,
    "gated_linear_unit": False,
}
_24B = _COMMON | {
    "num_layers": 48,
    "hidden_size": 6144,
    "ffn_hidden_size": 16384,
    "num_attention_heads": 48,
    "in_channels": 32,
    "out_channels": 32,
    "half_channel_vae": True,
    "x_rescale_factor": 0.1,
    "gated_linear_unit": True,
}


def _distilled(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"distilled": True}


def _fp8(config: dict[str, Any]) -> dict[str, Any]:
    """The official fp8 format: all layers but the first and the last."""
    return config | {"fp8_layers": list(range(1, config["num_layers"] - 1))}


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "4.5b-base": _4_5B,
    "4.5b-distill": _distilled(_4_5B),
    "4.5b-distill-fp8": _fp8(_distilled(_4_5B)),
    "24b-base": _24B,
    "24b-distill": _distilled(_24B),
    "24b-distill-fp8": _fp8(_distilled(_24B)),
}
