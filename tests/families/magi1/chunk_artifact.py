"""An artifact with the two graphs of a tiny transformer, unquantized, for the component's tests."""

from pathlib import Path

import torch
from torch import Tensor, nn

from videosdgx.artifacts import Manifest, TensorSpec, seal
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel


class _Chunk(nn.Module):
    def __init__(self, model: MagiTransformer3DModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, has_text: Tensor, positions: Tensor, text_kv: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        velocity, present = self.model.forward_chunk(hidden_states, timestep, has_text, positions, text_kv, past)
        return (velocity, *present)


class _Text(nn.Module):
    def __init__(self, model: MagiTransformer3DModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:
        return self.model.encode_text(encoder_hidden_states)


def write_chunk_artifact(directory: Path, model: MagiTransformer3DModel, frames: int, height: int, width: int) -> Manifest:
    """For chunks of `frames` latent frames of `height` x `width`."""
    config, dynamic = dict(model.config), torch.export.Dim.DYNAMIC
    layers, groups, head = config["num_layers"], config["num_query_groups"], 2 * config["attention_head_dim"]
    tokens = frames * (height // 2) * (width // 2)
    past_names = [graphs.past_input(layer) for layer in range(layers)]
    specs = {
        graphs.HIDDEN_STATES: ("float32", [1, model.latent_channels, frames, height, width]),
        graphs.TIMESTEP: ("float32", [1]),
        graphs.HAS_TEXT: ("bool", [1]),
        graphs.POSITIONS: ("float32", [tokens, 3]),
        graphs.TEXT_KV: ("float32", [layers, "text", groups, head]),
        **{name: ("float32", ["past", groups, head]) for name in past_names},
    }
    inputs = [TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in specs.items()]
    example = {
        name: torch.zeros([{"text": 5, "past": 2 * tokens}.get(axis, axis) for axis in shape], dtype=getattr(torch, dtype))
        for name, (dtype, shape) in specs.items()
    }
    positional = [value for name, value in example.items() if name not in past_names]
    past = [example[name] for name in past_names]
    directory.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        _Chunk(model).eval(),
        (*positional, past),
        directory / graphs.CHUNK_ONNX,
        dynamo=True,
        opset_version=23,
        verbose=False,
        external_data=False,
        input_names=list(specs),
        output_names=[graphs.VELOCITY, *map(graphs.present_output, range(layers))],
        dynamic_shapes=(None, None, None, None, {1: dynamic}, [{0: dynamic}] * layers),
    )
    torch.onnx.export(
        _Text(model).eval(),
        (torch.zeros(5, config["caption_channels"]),),
        directory / graphs.TEXT_ONNX,
        dynamo=True,
        opset_version=23,
        verbose=False,
        external_data=False,
        input_names=[graphs.ENCODER_HIDDEN_STATES],
        output_names=[graphs.TEXT_KV],
        dynamic_shapes=({0: dynamic},),
    )
    manifest = Manifest(
        family="magi1",
        variant="tiny",
        component="transformer",
        precision="fp32",
        target="cpu",
        runtime="onnxruntime",
        versions={},
        source="random weights",
        inputs=inputs,
    )
    return seal(directory, manifest)
