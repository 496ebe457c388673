"""Where the demo checkpoints are, and how to load one into its pipeline."""

from __future__ import annotations

from pathlib import Path

from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5EncoderModel

from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens

CHECKPOINTS = Path(__file__).parent / "checkpoints"
WAN21 = CHECKPOINTS / "wan21"
MAGI1 = CHECKPOINTS / "magi1"


def load_wan21(folder: Path = WAN21) -> WanPipeline:
    """The Wan 2.1 demo as a diffusers pipeline, fp32 on the CPU, without a progress bar.

    `WanPipeline.from_pretrained(folder)` does the same where `accelerate` is installed; diffusers loads the Wan
    transformer only with it, so here the transformer is read by hand and all else by diffusers.
    """
    transformer = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
    transformer.load_state_dict(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))
    pipe = WanPipeline.from_pretrained(folder, transformer=transformer.eval(), low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load_magi1(folder: Path = MAGI1) -> MagiPipeline:
    """The MAGI-1 demo as its pipeline, fp32 on the CPU."""
    return MagiPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel.from_pretrained(folder / "text_encoder").eval(),
        transformer=MagiTransformer3DModel.from_pretrained(folder / "transformer").eval(),
        vae=AutoencoderKLMagi.from_pretrained(folder / "vae").eval(),
        special_tokens=MagiSpecialTokens.from_pretrained(folder / "special_tokens"),
        split_prompts=True,
    )
