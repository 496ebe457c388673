from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.families.magi1.tiny import CONFIG, GATED, tiny_transformer
from videosdgx.families.magi1.network.block import attention
from videosdgx.families.magi1.network.cache import CacheMissing
from videosdgx.families.magi1.network.fp8 import Fp8Linear
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

CHUNKS, WIDTH, HEIGHT, TOKENS = 3, 6, 4, 2 * 3 * 2  # of 2 latent frames each, 4 x 6


def inputs(clips: int = 1, seed: int = 1, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times, text features of 5 tokens a chunk."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(clips, channels, 2 * CHUNKS, HEIGHT, WIDTH, generator=generator)
    return latents, torch.rand(clips, CHUNKS, generator=generator), torch.randn(clips * CHUNKS, 5, 24, generator=generator)


def windowed(
    model: MagiTransformer3DModel, latents: Tensor, times: Tensor, text: Tensor | list[Tensor], **options: Any
) -> Tensor:
    cache = model.new_cache(HEIGHT, WIDTH, chunk_width=2)
    states = [model.encode_text(one) for one in text]
    options = {"first_chunk": 0, "ranges": [(0, 1), (0, 2), (1, 3)], "has_text": True, "cache": cache} | options
    return model.evaluate(latents, times, states, **options)


@pytest.mark.parametrize("config", [CONFIG, GATED], ids=["gelu", "gated"])
@pytest.mark.parametrize("step_size", [None, 8.0])
def test_chunk_by_chunk_equals_all_at_once(config: dict[str, Any], step_size: float | None) -> None:
    model = tiny_transformer(**config)
    latents, times, text = inputs()
    ranges = torch.tensor([[0, 1], [0, 2], [1, 3]]) * TOKENS
    delta = None if step_size is None else torch.tensor(step_size)
    with torch.no_grad():
        at_once = model(latents, times, model.encode_text(text), kv_range=ranges, step_size=delta)
    by_chunk = windowed(model, latents, times[0], text, step_size=step_size)
    torch.testing.assert_close(by_chunk, at_once, atol=5e-5, rtol=1e-5)


def test_a_batch_of_clips_equals_each_clip() -> None:
    model = tiny_transformer()
    latents, times, text = inputs(clips=3)
    mask = torch.arange(5)[None] < torch.tensor([1, 5, 2, 3, 4, 5, 2, 2, 1])[:, None]
    has_text = torch.tensor([True, False, True])
    with torch.no_grad():
        together = model(latents, times, model.encode_text(text), mask, has_text=has_text)
        for clip in range(3):
            rows = slice(clip * CHUNKS, (clip + 1) * CHUNKS)
            texts = [features[keep] for features, keep in zip(text[rows], mask[rows], strict=True)]
            one = windowed(
                model,
                latents[clip : clip + 1],
                times[clip],
                texts,
                ranges=[(0, 1), (0, 2), (0, 3)],
                has_text=bool(has_text[clip]),
            )
            torch.testing.assert_close(together[clip : clip + 1], one, atol=1e-5, rtol=1e-5)


def test_every_parameter_has_a_gradient() -> None:
    model = tiny_transformer()
    latents, times, text = inputs(clips=2)
    null = model.y_embedder.null_caption_embedding[:5].expand(CHUNKS, -1, -1)
    states = model.encode_text(torch.cat([text[:CHUNKS], null]))
    velocity = model(latents, times, states, has_text=torch.tensor([True, False]), step_size=torch.tensor(8.0))
    velocity.square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()] == []


def test_a_chunk_sees_its_own_text_its_range_and_nothing_later() -> None:
    model = tiny_transformer()
    latents, times, text = inputs()
    before = windowed(model, latents, times[0], text)
    changed = text.clone()
    changed[1] += 1
    difference = (windowed(model, latents, times[0], changed) - before).abs().amax(dim=(0, 1, 3, 4)).unflatten(0, (CHUNKS, 2))
    assert difference[0].max() == 0 and (difference[1:] > 0).all()  # chunk 2 sees chunk 1, whose keys changed
    alone = windowed(model, latents, times[0], changed, ranges=[(0, 1), (0, 2), (2, 3)])
    torch.testing.assert_close(
        alone[:, :, 4:], windowed(model, latents, times[0], text, ranges=[(0, 1), (1, 2), (2, 3)])[:, :, 4:]
    )


def test_without_any_text_token_the_text_attention_gives_zero() -> None:
    model = tiny_transformer()
    latents, times, text = inputs()
    mask = torch.ones(CHUNKS, 5, dtype=torch.bool)
    mask[1] = False
    with torch.no_grad():
        at_once = model(latents, times, model.encode_text(text), mask)
    by_chunk = windowed(
        model, latents, times[0], [text[0], text[1][:0], text[2]], ranges=[(0, 1), (0, 2), (0, 3)]
    )  # fmt: skip
    assert at_once.isfinite().all()
    torch.testing.assert_close(by_chunk, at_once, atol=1e-5, rtol=1e-5)


def test_stored_chunks_are_read_by_later_evaluations() -> None:
    model = tiny_transformer()
    latents, times, text = inputs()
    states = [model.encode_text(one) for one in text]
    whole = windowed(model, latents, times[0], text, ranges=[(0, 1), (0, 2), (0, 3)])
    cache = model.new_cache(HEIGHT, WIDTH, chunk_width=2)
    options: dict[str, Any] = {"has_text": True, "cache": cache}
    with pytest.raises(CacheMissing) as missing:
        model.evaluate(latents[:, :, 4:], times[0, 2:], states[2:], first_chunk=2, ranges=[(0, 3)], **options)
    assert missing.value.chunk == 0
    model.evaluate(latents[:, :, :4], times[0, :2], states[:2], first_chunk=0, ranges=[(0, 1), (0, 2)], store=2, **options)
    # Another evaluation of later chunks leaves what is stored alone.
    model.evaluate(latents[:, :, 2:4], times[0, 2:], states[2:], first_chunk=2, ranges=[(0, 3)], **options)
    last = model.evaluate(latents[:, :, 4:], times[0, 2:], states[2:], first_chunk=2, ranges=[(0, 3)], **options)
    torch.testing.assert_close(last, whole[:, :, 4:], atol=1e-5, rtol=1e-5)


def test_a_range_must_end_with_its_chunk() -> None:
    model = tiny_transformer()
    with pytest.raises(ValueError, match="chunk 1 cannot see chunks 0 to 3"):
        windowed(model, *_first_row(), ranges=[(0, 1), (0, 3), (0, 3)])


def _first_row() -> tuple[Tensor, Tensor, Tensor]:
    latents, times, text = inputs()
    return latents, times[0], text


def test_saved_and_loaded_in_two_precisions(tmp_path: Path) -> None:
    model = tiny_transformer(fp8_layers=[1])
    model.layers[1].mlp.linear_fc1.weight.data.random_(0, 100)
    model.save_pretrained(tmp_path)
    wide = MagiTransformer3DModel.from_pretrained(tmp_path)
    assert {name: value.dtype for name, value in wide.state_dict().items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in wide.state_dict().items())
    mixed = MagiTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert mixed.compute_dtype == torch.bfloat16
    cast = model.to_compute_dtype(torch.bfloat16).state_dict()
    assert all(torch.equal(value, cast[name]) and value.dtype == cast[name].dtype for name, value in mixed.state_dict().items())
    assert mixed.layers[0].self_attention.q_layernorm.weight.dtype == torch.float32
    assert mixed.layers[0].self_attention.q_layernorm_xattn.weight.dtype == torch.bfloat16
    assert mixed.layers[1].mlp.linear_fc1.weight.dtype == torch.uint8


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_query_groups is 3"):
        tiny_transformer(num_query_groups=3)
    with pytest.raises(ValueError, match="attention_head_dim is 12"):
        tiny_transformer(attention_head_dim=12)
    latents, times, text = inputs()
    model = tiny_transformer()
    with pytest.raises(ValueError, match="2 x 1 tokens is too small"):
        model(latents[..., :2], times, model.encode_text(text))
    with pytest.raises(ValueError, match="6 x 4 x 5 are not 3 chunks"):
        model(latents[..., :5], times, model.encode_text(text))


def fp8_in_the_middle(seed: int) -> MagiTransformer3DModel:
    """Three layers, 128 wide, the middle one fp8, in the official mixed precision."""
    sizes = {"num_layers": 3, "hidden_size": 128, "ffn_hidden_size": 256, "num_attention_heads": 8, "attention_head_dim": 16}
    model = tiny_transformer(seed, **sizes, fp8_layers=[1])
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, Fp8Linear):
            weight = torch.randn(layer.weight.shape, generator=generator) * 448 / 5
            layer.weight.data = weight.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
            layer.weight_scale.fill_(5 / 448 / layer.in_features**0.5)
            layer.input_scale.fill_(5 / 448)
            if layer.smooth_scale is not None:
                layer.smooth_scale.fill_(5 / 448)
    return model.to_compute_dtype(torch.bfloat16)


def test_mixed_precision_has_the_same_bits_with_the_products_of_any_processor() -> None:
    """oneDNN's bfloat16 products depend on the processor; behind an fp8 layer that was as much as 1e-2."""
    latents, times, text = torch.randn(1, 4, 6, 16, 16, generator=torch.Generator().manual_seed(2)), *inputs()[1:]
    for seed in range(2):
        model, seen = fp8_in_the_middle(seed), []
        model.layers[1].register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output[0]))
        for enabled in (True, False):
            torch.backends.mkldnn.enabled = enabled
            try:
                with torch.no_grad():
                    model(latents, times, model.encode_text(text), step_size=torch.tensor(8.0))
                assert torch.backends.mkldnn.enabled == enabled
            finally:
                torch.backends.mkldnn.enabled = True
        assert torch.equal(*seen)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_16_bits_is_a_softmax_in_fp32_rounded_once(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 5, 4, 16, generator=generator).bfloat16()
    key_value = torch.randn(2, 7, 2, 32, generator=generator).bfloat16()
    mask = torch.rand(2, 1, 5, 7, generator=generator) > 0.5 if masked else None
    if mask is not None:
        mask[0, :, 3] = False
    key, value = (part.float().repeat_interleave(2, dim=2) for part in key_value.chunk(2, dim=-1))
    scores = torch.einsum("bqhd,bkhd->bhqk", query.float(), key) / 4
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e30)
    weights = scores.softmax(-1) if mask is None else scores.softmax(-1) * mask.any(-1, keepdim=True)
    expected = torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2)
    result = attention(query, key_value, mask)
    assert result.dtype == torch.bfloat16
    # The nearest bfloat16, but for sums that lie halfway between two.
    torch.testing.assert_close(result.float(), expected, rtol=2**-8, atol=1e-6)
    assert (result != expected.bfloat16()).float().mean() < 0.01
