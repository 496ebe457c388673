"""A transformer small enough to trace and run in a blink, with what the tests feed it."""

from collections.abc import Mapping

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from export.families.wan21.lowered import WanConfig

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 64,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 2,
}


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
