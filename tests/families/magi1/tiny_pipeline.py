"""A small MAGI-1 pipeline with random weights: all parts, 32 x 32 pixels and more."""

import torch
from transformers import T5Config, T5EncoderModel

from export.demo.text import build_tokenizer
from tests.families.magi1.tiny import CONFIG, tiny_transformer
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens

WORDS = ["a", "circle", "moving", "red", "right", "then", "up"]


def tiny_pipeline(distilled: bool = False, split_prompts: bool = False) -> MagiPipeline:
    """Every part is seeded. The latents have 4 channels, the autoencoder's tile is 32 x 32 pixels, 12 frames."""
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
        tokenizer=build_tokenizer(WORDS),
        text_encoder=encoder.eval(),
        transformer=tiny_transformer(distilled=distilled, caption_max_length=800).eval(),
        vae=vae.eval(),
        special_tokens=MagiSpecialTokens.from_arrays(tokens),
        split_prompts=split_prompts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
