"""Which layers of Wan 2.1's transformer are quantized, and why the others are not."""

import torch

from export.check.accuracy import Bar
from export.families.wan21.lowered import WanConfig
from export.quantize.linears import Format

# Together under 4 % of the weights at full size.
_ALWAYS_HIGH = {
    "patch_embedding": "the latent itself, an error here is an error of the input",
    "condition_embedder": "runs on few tokens, and modulation scales every value of every block",
    "proj_out": "its output is the velocity, which the sampler adds up over all steps",
}

# Measured on the demo, where nothing after the last block mends its errors: with it one format up the velocity is 3 dB
# closer to the unquantized one (FP8: 25.1 to 28.2 dB; NVFP4: 14.3 to 17.0 dB), more than for any other block, and a
# model of forty layers has but one of them. fp16 instead of FP8 there gives NVFP4 only 0.3 dB more.
_LAST_BLOCK: dict[str, Format] = {"fp8": "high", "nvfp4": "fp8"}

# What self-attention adds to the residual stream. Of the kinds of layers that cost NVFP4 most, each as much for its bytes
# (docs/wan21_sensitivity.md), it is the smallest: 5 % of the weights of 1.3B, 7 % of 14B, 6 % of the demo. With it in
# FP8, clips of 100 prompts are 28.1 dB from fp16's instead of 27.0 (`videosdgx export wan21 --precision nvfp4 --clips 100`).
_FP8_IN_NVFP4 = {
    "attn1.to_out.0": "its errors go straight into the residual stream; worth 1 dB of the clips for 5 to 8 % of the weights"
}

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_IMAGE = ("add_k_proj", "add_v_proj")


def block_linears(config: WanConfig, index: int) -> list[str]:
    """The names of the linear layers of block `index`."""
    image = _IMAGE if config.added_kv_proj_dim is not None else ()
    layers = [f"attn1.{name}" for name in _ATTENTION] + [f"attn2.{name}" for name in (*_ATTENTION, *image)]
    return [f"blocks.{index}.{name}" for name in (*layers, "ffn.net.0.proj", "ffn.net.2")]


def formats(config: WanConfig, precision: str) -> dict[str, Format]:
    """Format of each quantized linear layer for a precision; layers not named stay in fp16 or bf16."""
    if precision in ("fp16", "bf16"):
        return {}
    usual: Format = "fp8" if precision == "fp8" else "nvfp4"
    last = config.num_layers - 1
    chosen = {
        name: _LAST_BLOCK[precision] if index == last else usual
        for index in range(config.num_layers)
        for name in block_linears(config, index)
    }
    if precision == "nvfp4":
        chosen |= dict.fromkeys((name for name in chosen if name.endswith(tuple(_FP8_IN_NVFP4))), "fp8")
    return {name: layer_format for name, layer_format in chosen.items() if layer_format != "high"}


def all_linears(config: WanConfig) -> list[str]:
    """Every layer that some precision quantizes: what a calibration has to cover."""
    return [name for index in range(config.num_layers) for name in block_linears(config, index)]


def fp8_attentions(config: WanConfig) -> list[str]:
    """The attentions whose products may be in FP8: those of each block to itself, except the last block's.

    Clips of the demo against the unquantized model's (PSNR, dB, mean of 8) without it, with it in all blocks, and in all
    but the last: 38.1, 34.4, 35.5 beside FP8 linear layers; 30.2, 27.8, 29.8 beside NVFP4. The attentions to the text
    are 1.6 % of the work of attention (81 frames at 832x480), and would cost the velocity 0.9 dB more.
    """
    return [f"blocks.{index}.attn1" for index in range(config.num_layers - 1)]


def split(name: str) -> tuple[str, str]:
    """Block and kind of a layer: `blocks.0`, `attn1.to_q`."""
    _, index, kind = name.split(".", 2)
    return f"blocks.{index}", kind


def kept_higher(config: WanConfig, precision: str, high: torch.dtype) -> dict[str, str]:
    """What is in a higher format than the export's own, and why; for the manifest. `high` is fp16 or bf16."""
    if precision in ("fp16", "bf16"):
        return {}
    high_name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[high]
    always = {name: f"{high_name}: {reason}" for name, reason in _ALWAYS_HIGH.items()}
    name = {"high": high_name, "fp8": "fp8"}[_LAST_BLOCK[precision]]
    reason = f"{name}: nothing after it mends its errors; worth 3 dB of the velocity, more than any other block"
    kinds = {f"*.{kind}": f"fp8: {why}" for kind, why in _FP8_IN_NVFP4.items()} if precision == "nvfp4" else {}
    return always | kinds | {f"blocks.{config.num_layers - 1}": reason}


_CLIP_BARS = {"fp16": 45.0, "fp8": 36.0, "nvfp4": 27.0}  # dB, mean over clips with the same seeds
_BLOCK_COSINES = {"fp16": 0.9999, "bf16": 0.9999, "fp8": 0.999, "nvfp4": 0.99}  # of one full-width block
_SUCCESS_FALL = {"fp16": 1.0, "fp8": 2.0, "nvfp4": 5.0}  # percentage points, which need many clips to mean anything


def bars(precision: str) -> list[Bar]:
    """What an export of this precision has to reach."""
    return [
        Bar("block_cosine", least=_BLOCK_COSINES[precision]),
        Bar("clip_psnr_db_mean", least=_CLIP_BARS.get(precision)),
        Bar("relative_error_fp8_modelopt", most=1e-3),
        Bar("relative_error_nvfp4_emulation", most=1e-3),
        Bar("success_points_lost", most=_SUCCESS_FALL.get(precision)),
    ]
