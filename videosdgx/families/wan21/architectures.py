"""The shapes of Wan 2.1's published transformers, in diffusers' names (source: the repositories' config.json).

They are needed where there is no checkpoint: for an export with random weights, and for planning.
"""

from typing import Any

_COMMON: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "rope_max_seq_len": 1024,
}
_T2V_14B = _COMMON | {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}
_I2V_14B = _T2V_14B | {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "t2v-1.3b": _COMMON | {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "t2v-14b": _T2V_14B,
    # The two share the architecture and differ in their weights.
    "i2v-14b-480p": _I2V_14B,
    "i2v-14b-720p": _I2V_14B,
}
