"""What the training of MAGI-1's demo sees is what the sampler does."""

import itertools

import numpy as np
import pytest
import torch

from export.demo.magi1 import train_transformer as training
from export.demo.magi1 import train_vae, world
from export.demo.magi1.train_transformer import PATTERNS, Data
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule, time_grid


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    combinations, clips = 240, 3
    return Data(
        torch.randn(clips, training.CLIP_CHUNKS, 16, 6, 8, 8, generator=generator).half(),
        torch.randint(combinations, (clips, training.CLIP_CHUNKS), generator=generator),
        torch.randn(combinations, 17, 64, generator=generator),
        torch.full((combinations,), 14),
        [range(index, index + 1) for index in range(combinations)],
        training.special_tokens(0)["other_tokens"].float(),
    )


def test_every_pattern_has_five_chunks_and_chances_sum_to_one() -> None:
    assert all(sum(group.size for group in pattern.groups) == 5 for _, pattern in PATTERNS)
    assert round(sum(chance for chance, _ in PATTERNS), 9) == 1


def test_windows_of_the_sampler_are_patterns_of_the_training() -> None:
    seen = set()
    for _, pattern in PATTERNS:
        seen |= {(group.clean, group.quarters) for group in pattern.groups}
    for first in (0, 1, 2):
        schedule = ChunkSchedule(8, 4, 8, first)
        for update in schedule.updates():
            start = min(begin for begin, _ in update.ranges)
            times = [round(8 * float((3 * t / (1 + 2 * t)) ** 0.5)) // 2 for t in update.before]
            clean = update.chunks.start - start
            # A window that shrinks lacks its youngest chunks, which the others do not see.
            assert any(c == clean and quarters[: len(times)] == tuple(times) for c, quarters in seen), (clean, times)


def test_times_are_those_of_the_schedule() -> None:
    torch.testing.assert_close(training.schedule(torch.linspace(0, 1, 17)), time_grid(16))


def test_the_training_predicts_what_the_network_does() -> None:
    model = training.build(0).eval()
    torch.nn.init.normal_(model.final_linear.linear.weight, std=0.1)
    batch = training.draw(data(), PATTERNS[0][1], 2, np.random.default_rng(0))
    with torch.no_grad():
        states, mask = training.text_states(model, batch)
        flags = torch.ones_like(batch.flags)
        ours = training.predict(model, batch.latents, batch.times, flags, states, mask, batch.ranges)
        tokens = 6 * 16
        theirs = model(
            batch.latents.transpose(1, 2).flatten(2, 3),
            batch.times,
            states,
            mask,
            has_text=torch.ones(2, dtype=torch.bool),
            kv_range=torch.tensor(batch.ranges).repeat(2, 1) * tokens,
        )
    torch.testing.assert_close(ours.transpose(1, 2).flatten(2, 3), theirs, atol=1e-4, rtol=1e-4)


def test_clean_chunks_have_the_null_text_and_durations_count_down() -> None:
    batch = training.draw(data(), PATTERNS[0][1], 8, np.random.default_rng(1))
    assert (batch.lengths[:, 0] == 0).all()
    assert (batch.times[:, 0] == 0.9999).all()
    assert (batch.times[:, 1:].diff(dim=1) < 0).all()
    special = training.special_tokens(0)["other_tokens"].float()
    for row in range(8):
        durations = [
            int((special[7:15] - batch.features[row, slot, 0]).abs().sum(dim=1).argmin()) + 1
            for slot in range(1, 5)
            if batch.lengths[row, slot] == 16
        ]
        assert all(before - after in (0, 1) for before, after in itertools.pairwise(durations))


def test_normalised_latents_have_mean_0_and_deviation_1_and_decode_the_same() -> None:
    vae = train_vae.build(0).eval()
    tiles = torch.rand(4, 3, 12, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(tiles).latent_dist.mode()).sample
        train_vae.normalise_latents(vae, tiles)
        latents = vae.encode(tiles).latent_dist.mode()
        after = vae.decode(latents).sample
    scaled = latents * vae.config.scaling_factor
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3, 4)), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3, 4)), torch.ones(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_a_vae_that_goes_on_leaves_the_one_it_began_with_and_comes_nearer_to_the_picture() -> None:
    begun = train_vae.build(0).eval()
    before = {name: value.clone() for name, value in begun.state_dict().items()}
    trained = train_vae.train(0, 4, lambda _: None, 1e-3, begun)
    assert all(torch.equal(value, before[name]) for name, value in begun.state_dict().items())
    assert not trained.training
    tiles = train_vae.draw(world.split()[0], 4, np.random.default_rng(0))
    assert train_vae.psnr(trained, tiles).mean() > train_vae.psnr(begun, tiles).mean()


def test_an_error_that_is_the_same_in_both_tiles_costs_less_than_a_jump() -> None:
    error = torch.full((2, 3, 2 * train_vae.TILE_FRAMES, world.SIZE, world.SIZE), 0.2)
    steady = float(train_vae._reconstruction(error))
    error[:, :, train_vae.TILE_FRAMES :] *= -1
    jumping = float(train_vae._reconstruction(error))
    assert steady == pytest.approx(0.1 * 0.2 + 30 * 0.2**2, rel=1e-4)
    assert jumping == pytest.approx(steady + (30 + 30 / 23) * 0.4**2, rel=1e-3)


def test_a_transformer_that_was_narrower_computes_the_same_when_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = training.build(0).eval()
    torch.nn.init.normal_(narrow.final_linear.linear.weight, std=0.1)
    monkeypatch.setitem(training.CONFIG, "ffn_hidden_size", narrow.config.ffn_hidden_size + 32)
    wide = training.widened(narrow)
    assert wide.layers[0].mlp.linear_fc1.weight.shape[0] == narrow.config.ffn_hidden_size + 32
    assert all(layer.mlp.linear_fc1.weight[-32:].abs().min() > 0 for layer in wide.layers)  # else they would not learn
    batch = training.draw(data(), PATTERNS[0][1], 1, np.random.default_rng(0))
    with torch.no_grad():
        outputs = []
        for model in (narrow, wide):
            states, mask = training.text_states(model, batch)
            flags = torch.ones_like(batch.flags)
            outputs.append(training.predict(model, batch.latents, batch.times, flags, states, mask, batch.ranges))
    torch.testing.assert_close(*outputs)
