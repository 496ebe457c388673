"""Small networks with MAGI-1's architecture and random weights, for tests."""

from typing import Any

import torch

from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

CONFIG: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "caption_channels": 24,
    "caption_max_length": 20,
}
GATED = CONFIG | {
    "in_channels": 8, "out_channels": 8, "half_channel_vae": True, "x_rescale_factor": 0.1, "gated_linear_unit": True,
}  # fmt: skip


def tiny_transformer(seed: int = 0, **changes: Any) -> MagiTransformer3DModel:
    """Every parameter is random, those of norms too: what has no effect on the result cannot hide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MagiTransformer3DModel(**(CONFIG | changes))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return model
