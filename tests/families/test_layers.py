import torch
from torch import nn

from videosdgx.families.layers import EagerLayers, LayerNorm
from videosdgx.families.magi1.network.block import OfficialLayers, WideLinear, block_name
from videosdgx.families.magi1.network.fp8 import Fp8Linear


def test_a_norm_computes_in_the_dtype_of_its_weight() -> None:
    torch.manual_seed(0)
    norm, x = LayerNorm(64), torch.randn(3, 64).bfloat16()
    norm.weight.data.normal_()
    assert torch.equal(norm(x), nn.functional.layer_norm(x.float(), (64,), norm.weight, norm.bias))
    assert norm.bfloat16()(x.float()).dtype == torch.bfloat16


def test_in_pytorch_nothing_is_kept_that_can_be_computed() -> None:
    layers = EagerLayers()
    assert layers.compute_dtype is None and layers.constant(2, 3) is None and not layers.halves
    made = layers.linear("any", 4, 3, bias=False)
    assert type(made) is nn.Linear and made.weight.shape == (3, 4) and made.bias is None


def test_the_official_layers_go_by_their_names() -> None:
    layers = OfficialLayers([1])

    def kind(index: int, layer: str) -> type[nn.Module]:
        return type(layers.linear(f"{block_name(index)}.{layer}", 16, 16, bias=False))

    for index in (0, 10):  # 10 begins as 1 does
        assert kind(index, "self_attention.linear_proj") is WideLinear
        assert kind(index, "self_attention.linear_qkv.q") is kind(index, "mlp.linear_fc2") is nn.Linear
    assert kind(1, "self_attention.linear_kv_xattn") is kind(1, "ada_modulate_layer.proj.0") is nn.Linear
    smoothed = {}
    for layer in ("linear_qkv.q", "linear_qkv.qx", "linear_qkv.k", "linear_qkv.v", "linear_proj", "linear_fc1", "linear_fc2"):
        made = layers.linear(f"{block_name(1)}.self_attention.{layer}", 16, 16, bias=False)
        assert isinstance(made, Fp8Linear)
        smoothed[layer] = made.smooth_scale is not None
    assert [layer for layer, is_smoothed in smoothed.items() if is_smoothed] == ["linear_proj", "linear_fc2"]
