"""Names of Wan 2.1's layers in the official code, which most LoRA files use, from their names in diffusers."""

import re

_SELF, _CROSS = ("attn1", "self_attn"), ("attn2", "cross_attn")
_BLOCK = [
    *((rf"{ours}\.to_{part}", rf"{theirs}.{part}") for ours, theirs in (_SELF, _CROSS) for part in "qkv"),
    *((rf"{ours}\.to_out\.0", rf"{theirs}.o") for ours, theirs in (_SELF, _CROSS)),
    *((rf"{ours}\.norm_{part}", rf"{theirs}.norm_{part}") for ours, theirs in (_SELF, _CROSS) for part in "qk"),
    (r"attn2\.add_k_proj", "cross_attn.k_img"),
    (r"attn2\.add_v_proj", "cross_attn.v_img"),
    (r"attn2\.norm_added_k", "cross_attn.norm_k_img"),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    # The order in which they run is diffusers'; the official numbers follow the order of their definition.
    (r"norm2", "norm3"),
    (r"norm3", "norm2"),
]
_REST = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_out": "head.head",
    "": "head",  # the model's own scale_shift_table is the head's modulation
}


def original_name(layer: str) -> str:
    """The layer that diffusers calls `layer`, as the official code calls it; a name that both share is returned as it is."""
    if layer in _REST:
        return _REST[layer]
    for ours, theirs in _BLOCK:
        if found := re.fullmatch(rf"(blocks\.\d+)\.{ours}", layer):
            return f"{found[1]}.{theirs}"
    return layer
