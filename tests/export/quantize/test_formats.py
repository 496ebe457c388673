import itertools

import pytest
import torch

from export.quantize import emulation, formats

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def nearest_by_search(value: float) -> float:
    """Of all E2M1 values the nearest; of two equally near, the one with the even code."""
    size = min(abs(value), 6.0)
    code = min(range(8), key=lambda code: (abs(E2M1[code] - size), code % 2))
    return -E2M1[code] if value < 0 else E2M1[code]


def grid() -> torch.Tensor:
    """Every tie, and values close to it on both sides, both signs, and beyond the range."""
    ties = [(a + b) / 2 for a, b in itertools.pairwise(E2M1)]
    values = [v + d for v in ties + E2M1 + [7.0, 100.0] for d in (-1e-3, 0.0, 1e-3)]
    return torch.tensor(values + [-v for v in values])


@pytest.mark.parametrize("rounding", [formats._round_to_e2m1, emulation.nearest_e2m1])
def test_rounding_to_e2m1_is_to_nearest_with_ties_to_even(rounding):
    x = grid()
    assert rounding(x).tolist() == [nearest_by_search(value) for value in x.tolist()]


def test_fp8_is_torchs_float8_saturating():
    x = torch.cat([torch.randn(1000) * 100, torch.tensor([0.0, 500.0, -1e6, 448.0, 2.0**-9, 2.0**-11])])
    scale = torch.tensor(0.5)
    expected = (x / 0.5).clamp(-448, 448).to(torch.float8_e4m3fn).float() * 0.5
    assert torch.equal(formats.fp8_dequantize(formats.fp8_quantize(x, scale), scale, torch.float32), expected)


def test_fp8_weights_are_modelopts_to_the_last_bit():
    from modelopt.torch.quantization.tensor_quant import fp8_eager

    weight = torch.randn(512, 512)
    quantized, scale = formats.fp8_quantize_weight(weight)
    assert torch.equal(formats.fp8_dequantize(quantized, scale, torch.float32), fp8_eager(weight, weight.abs().amax()))


def test_packed_nvfp4_weight_unpacks_to_the_emulations_values():
    weight = torch.randn(24, 64) * torch.logspace(-3, 1, 24).unsqueeze(1)
    scale = formats.nvfp4_scale(weight.abs().amax())
    packed, block_scale = formats.nvfp4_quantize(weight, scale)
    assert packed.shape == (24, 32) and packed.dtype == torch.uint8
    assert block_scale.shape == (24, 4) and block_scale.dtype == torch.float8_e4m3fn
    restored = formats.nvfp4_dequantize(packed, block_scale, scale, torch.float32)
    assert torch.allclose(restored, emulation.nvfp4_weight(weight), rtol=1e-6, atol=0)


def test_activations_have_the_emulations_values():
    x = torch.randn(24, 64) * torch.logspace(-3, 1, 24).unsqueeze(1)
    amax = x.abs().amax()
    shown = formats.nvfp4_quantize_dequantize(x, formats.nvfp4_scale(amax))
    assert torch.allclose(shown, emulation.nvfp4(x, amax), rtol=1e-6, atol=0)


def test_a_block_takes_the_scale_that_suits_it():
    scale = formats.nvfp4_scale(torch.tensor(60.0))
    full = torch.tensor([6.0, 3.0, 1.5, 0.5] * 4)  # exact with 6 at the top
    crowded = torch.tensor([4.0, 3.0, 2.0, 1.5] * 4) * 1.5  # 6, 4.5, 3, 2.25: exact with 4 at the top
    packed, block_scale = formats.nvfp4_quantize(torch.stack([full, crowded]), scale)
    assert [int(row[0]) & 15 for row in packed] == [7, 6]  # the codes of 6 and 4
    shown = formats.nvfp4_dequantize(packed, block_scale, scale, torch.float32)
    assert (shown - torch.stack([full, crowded])).abs().max() < 0.05 * 6


def test_weights_are_closer_than_with_one_kind_of_scale():
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    one_kind = emulation.nvfp4(weight, weight.abs().max())
    error, usual = ((shown - weight).square().mean() for shown in (emulation.nvfp4_weight(weight), one_kind))
    assert error < 0.88 * usual


def test_long_weights_are_quantized_in_pieces_alike(monkeypatch):
    weight = torch.randn(5, 96)
    scale = formats.nvfp4_scale(weight.abs().amax())
    whole = formats.nvfp4_quantize(weight, scale)
    monkeypatch.setattr(formats, "_CHUNK", 7)
    for part, other in zip(formats.nvfp4_quantize(weight, scale), whole, strict=True):
        assert torch.equal(part.view(torch.uint8), other.view(torch.uint8))


def test_low_half_of_a_byte_is_the_even_column():
    weight = torch.zeros(1, 16)
    weight[0, 0], weight[0, 1], weight[0, 15] = 6.0, -0.5, 3.0
    packed, block_scale = formats.nvfp4_quantize(weight, torch.tensor(1.0))
    assert block_scale.float().tolist() == [[1.0]]
    assert packed[0, 0] == 7 | (9 << 4) and packed[0, 7] == 5 << 4


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_blocks_too_small_to_show_become_zero(value):
    x = torch.full((2, 32), value)
    x[1, 0] = 1.0
    shown = formats.nvfp4_quantize_dequantize(x, formats.nvfp4_scale(x.abs().amax()))
    assert torch.isfinite(shown).all()
    assert shown[0].abs().max() == 0 and shown[1, 0] == pytest.approx(1.0, rel=0.05)


def test_all_zero_tensor_quantizes_to_zero():
    weight = torch.zeros(4, 32)
    for scale_of, quantize in (
        (formats.fp8_scale, formats.fp8_quantize),
        (formats.nvfp4_scale, formats.nvfp4_quantize_dequantize),
    ):
        assert quantize(weight, scale_of(weight.abs().amax())).float().abs().max() == 0
