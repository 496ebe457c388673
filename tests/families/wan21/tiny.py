"""Small networks with Wan 2.1's architecture and random weights, what tests feed them, and a whole checkpoint of them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor

from export.demo.checkpoint import WAN21
from export.demo.text import TEXT_WIDTH, build_encoder, build_tokenizer
from export.demo.world import vocabulary
from export.families.wan21.lowered import WanConfig
from videosdgx.families.wan21.spec import DEMO

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
}


def write_checkpoint(folder: Path) -> None:
    """A whole checkpoint in diffusers' layout, in `folder`: the demo's words and sizes, random networks."""
    tokenizer = build_tokenizer(vocabulary())
    with torch.random.fork_rng():
        torch.manual_seed(2)
        vae = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(WAN21 / "vae") | {"base_dim": 4, "num_res_blocks": 1})
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_encoder(len(tokenizer), seed=0),
        transformer=random_transformer(),
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=DEMO.flow_shift, num_train_timesteps=1000
        ),
    )
    pipeline.save_pretrained(folder)


def random_transformer(**changes: object) -> WanTransformer3DModel:
    """A transformer whose every parameter matters: none is zero, none dominates."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(**(TINY | changes)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * parameter[0].numel() ** -0.5 + (0.5 if parameter.ndim == 1 else 0)
    return model


def random_inputs(config: WanConfig, batch: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(batch, config.in_channels, 3, 8, 6),
        "timestep": torch.tensor([999.0, 313.5])[:batch],
        "encoder_hidden_states": torch.randn(batch, 512, config.text_dim),
    }
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = torch.randn(batch, 257, config.image_dim)
    return inputs


def input_amax(model: WanTransformer3DModel, inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest absolute input of every linear layer in one forward pass."""
    found: dict[str, float] = {}
    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: found.__setitem__(name, float(given[0].abs().max())))
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    return found
