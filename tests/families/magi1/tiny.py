"""Small networks with MAGI-1's architecture and random weights, and a whole checkpoint of them, for tests."""

from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel

from export.demo.text import build_tokenizer
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens
from videosdgx.families.magi1.spec import SPEC

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

# In a checkpoint: an export treats the outer blocks otherwise than those between.
LAYERS = 3


def write_checkpoint(folder: Path) -> None:
    """A whole checkpoint in diffusers' layout, in `folder`: its clips are as large as the demo's, and "then" splits prompts."""
    pipeline = tiny_pipeline(split_prompts=True)
    pipeline.register_modules(transformer=tiny_transformer(num_layers=LAYERS, caption_max_length=800).eval())
    pipeline.save_pretrained(folder)


def tiny_transformer(seed: int = 0, **changes: Any) -> MagiTransformer3DModel:
    """Every parameter is random, those of norms too: what has no effect on the result cannot hide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MagiTransformer3DModel(**(CONFIG | changes))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def tiny_pipeline(distilled: bool = False, split_prompts: bool = False) -> MagiPipeline:
    """Every part is seeded. The latents have 4 channels, the autoencoder's tile is 32 x 32 pixels, 12 frames."""
    words = sorted({word for prompt in SPEC.examples for word in prompt.split()})
    width = CONFIG["caption_channels"]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        vae = AutoencoderKLMagi(
            latent_channels=CONFIG["in_channels"],
            embed_dim=256,
            depth=1,
            num_heads=2,
            mlp_ratio=1.0,
            video_size=32,
            tile_sample_min_height=32,
            tile_sample_min_width=32,
        )
        encoder = T5EncoderModel(T5Config(vocab_size=32, d_model=width, d_kv=8, num_heads=2, num_layers=1, d_ff=32))
        others = torch.randn(100, width)
    tokens = {"caption_token": others[:1], "logo_token": others[1:2], "other_tokens": others}
    pipeline = MagiPipeline(
        tokenizer=build_tokenizer(words),
        text_encoder=encoder.eval(),
        transformer=tiny_transformer(distilled=distilled, caption_max_length=800).eval(),
        vae=vae.eval(),
        special_tokens=MagiSpecialTokens.from_arrays(tokens),
        split_prompts=split_prompts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
