import pytest
import torch

from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.pixels import pixels_to_video, video_to_pixels
from videosdgx.families.magi1.network.tiling import Tiles, tiled_decode, tiled_encode

TINY = {
    "latent_channels": 4,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "video_size": 16,
    "video_length": 12,
    "use_final_proj": True,
    "tile_sample_min_height": 64,
    "tile_sample_min_width": 64,
}


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLMagi:
    torch.manual_seed(0)
    return AutoencoderKLMagi(**TINY).eval().requires_grad_(False)


def test_size_is_the_published_one() -> None:
    with torch.device("meta"):
        state = AutoencoderKLMagi().state_dict()
    assert sum(value.numel() for value in state.values()) == 613_755_239
    assert len(state) == 496


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (12, 3), (14, 4), (24, 6), (25, 7)])
def test_any_number_of_frames_encodes_and_whole_patches_come_back(vae: AutoencoderKLMagi, frames: int, latent_frames: int):
    latents = vae.encode(torch.rand(1, 3, frames, 32, 16) * 2 - 1).latent_dist.mode()
    assert latents.shape == (1, 4, latent_frames, 4, 2)
    assert vae.decode(latents).sample.shape == (1, 3, 4 * latent_frames, 32, 16)


def test_faults_of_the_original_come_on_request(vae: AutoencoderKLMagi) -> None:
    latents = torch.randn(1, 4, 4, 2, 2)
    right, original = vae.decode(latents).sample, vae.decode(latents, reference_behaviour=True).sample
    assert (right.shape[2], original.shape[2]) == (16, 13)
    torch.testing.assert_close(right[:, :, :13], original)
    with pytest.raises(ValueError, match="2 frames"):
        vae.encode(torch.zeros(1, 3, 14, 16, 16), reference_behaviour=True)


def test_bad_sides_are_named(vae: AutoencoderKLMagi) -> None:
    with pytest.raises(ValueError, match="height 20 and width 16 must be multiples of 8"):
        vae.encode(torch.zeros(1, 3, 4, 20, 16))


def test_tiles_of_what_does_not_look_beyond_its_tile_come_together_without_a_seam() -> None:
    tiles = Tiles(length=4, height=16, width=16, overlap=0.25, patch_length=1, patch_size=1)
    video = torch.randn(1, 3, 10, 40, 28)
    torch.testing.assert_close(tiled_encode(lambda tile: 2 * tile, video, tiles), 2 * video)
    torch.testing.assert_close(tiled_decode(lambda tile: 2 * tile, video, tiles), 2 * video)


def test_pixels_survive_the_way_there_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, -1, -1, 3)
    assert torch.equal(video_to_pixels(pixels_to_video(pixels)), pixels)
    assert video_to_pixels(torch.full((1, 3, 1, 1, 1), 0.4)).tolist() == [[[[178, 178, 178]]]]
    assert video_to_pixels(torch.full((1, 3, 1, 1, 1), 0.399), reference_behaviour=True).tolist() == [[[[178, 178, 178]]]]
    assert video_to_pixels(torch.full((1, 3, 1, 1, 1), 9.0)).tolist() == [[[[255, 255, 255]]]]
