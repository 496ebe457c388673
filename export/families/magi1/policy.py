"""Which layers of MAGI-1's transformer are quantized, and why the others are not."""

import torch

from export.check.accuracy import Bar
from export.families.magi1.config import MagiConfig, block_name
from export.quantize.linears import Format

# They run on few tokens or once for a text, and their errors reach every block.
_ALWAYS_HIGH = {
    "x_embedder": "fp32: the latent itself, an error here is an error of the input",
    "t_embedder": "fp32: runs on one token, and the gates of every block depend on it",
    "y_embedder": "fp32: runs once for a text, whose keys and values of every block depend on it",
    "ada_modulate_layer": "runs on one token, and a gate weighs every channel of every token",
    "final_linear": "fp32: its output is the velocity, which the sampler adds up over all steps",
}
_ATTENTION = ("linear_qkv.q", "linear_qkv.qx", "linear_qkv.k", "linear_qkv.v", "linear_proj", "linear_kv_xattn")
_MLP = ("linear_fc1", "linear_fc2")
# The official fp8 checkpoints leave the first and the last block as they are. On the demo the last one is by far the most
# costly (docs/magi1_sensitivity.md), as for Wan 2.1; beside NVFP4 one format up suffices.
_OUTER_BLOCKS: dict[str, Format] = {"fp8": "high", "nvfp4": "fp8"}
# In NVFP4 two layers of the blocks between are in FP8. The joint projection of the attentions gains as much for its bytes as
# any on the demo, and it alone lifts a full-width block of random weights from a cosine of 0.987 to 0.992 (the bar is 0.99).
# The text's keys and values are made once for a text, so that a lower format would save next to no time.
_FP8_IN_NVFP4 = {
    "self_attention.linear_proj": "fp8: costs the most accuracy for its size but for layers too small to matter",
    "self_attention.linear_kv_xattn": "fp8: runs once for a text",
}


def block_linears(index: int) -> list[str]:
    """The names of the linear layers of block `index` that may be quantized."""
    layers = [f"self_attention.{name}" for name in _ATTENTION] + [f"mlp.{name}" for name in _MLP]
    return [f"{block_name(index)}.{name}" for name in layers]


def all_linears(config: MagiConfig) -> list[str]:
    """Every layer that some precision quantizes: what a calibration has to cover."""
    return [name for index in range(config.num_layers) for name in block_linears(index)]


def formats(config: MagiConfig, precision: str) -> dict[str, Format]:
    """Format of each quantized linear layer for a precision; layers not named stay in fp16 or bf16."""
    if precision in ("fp16", "bf16"):
        return {}
    usual: Format = "fp8" if precision == "fp8" else "nvfp4"
    chosen: dict[str, Format] = {}
    for index in range(config.num_layers):
        outer = index in (0, config.num_layers - 1)
        for name in block_linears(index):
            inner = "fp8" if name.endswith(tuple(_FP8_IN_NVFP4)) else usual
            chosen[name] = _OUTER_BLOCKS[precision] if outer else inner
    return {name: layer_format for name, layer_format in chosen.items() if layer_format != "high"}


def split(name: str) -> tuple[str, str]:
    """Block and kind of a layer: `layers.0`, `linear_qkv.q`."""
    _, layers, index, _, kind = name.split(".", 4)
    return f"{layers}.{index}", kind


def kept_higher(config: MagiConfig, precision: str, high: torch.dtype) -> dict[str, str]:
    """What is in a higher format than the export's own, and why; for the manifest. `high` is fp16 or bf16."""
    if precision in ("fp16", "bf16"):
        return {}
    high_name = {torch.float16: "fp16", torch.bfloat16: "bf16"}[high]
    kept = {name: why if why.startswith("fp32") else f"{high_name}: {why}" for name, why in _ALWAYS_HIGH.items()}
    outer = {"high": high_name, "fp8": "fp8"}[_OUTER_BLOCKS[precision]]
    names = f"{block_name(0)} and {block_name(config.num_layers - 1)}"
    kept[names] = f"{outer}: the official fp8 checkpoints leave them unquantized"
    if precision == "nvfp4":
        kept |= {name.rpartition(".")[2]: why for name, why in _FP8_IN_NVFP4.items()}
    return kept


_CLIP_BARS = {"fp16": 40.0, "fp8": 30.0, "nvfp4": 22.0}  # dB, mean over clips with the same seeds
_BLOCK_COSINES = {"fp16": 0.9999, "bf16": 0.9999, "fp8": 0.999, "nvfp4": 0.99}  # of one full-width block


def bars(precision: str) -> list[Bar]:
    """What an export of this precision has to reach."""
    return [
        Bar("block_cosine", least=_BLOCK_COSINES[precision]),
        Bar("clip_psnr_db_mean", least=_CLIP_BARS.get(precision)),
        Bar("relative_error_fp8_modelopt", most=1e-3),
        Bar("relative_error_nvfp4_emulation", most=1e-3),
    ]
