"""MAGI-1's pipeline as a whole, on tiny networks: lengths, prefixes, files, what the original does."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families.magi1.tiny import tiny_pipeline
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.sampler import Done
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule
from videosdgx.families.magi1.sampling.start import start_of
from videosdgx.media.video import encode_mp4

SIZE: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 4}
PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def pipeline() -> MagiPipeline:
    return tiny_pipeline()


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stream(pipeline: MagiPipeline, prompt: Any = PROMPT, **options: Any) -> Iterator[np.ndarray]:
    return pipeline.stream(prompt, **(SIZE | {"generator": generator()} | options))


def film(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_a_clip_has_the_length_asked_for(pipeline: MagiPipeline) -> None:
    for num_frames, lengths in ((96, [24] * 4), (50, [24, 24, 2]), (1, [1])):
        chunks = list(stream(pipeline, num_frames=num_frames))
        assert [len(chunk) for chunk in chunks] == lengths
        assert all(chunk.dtype == np.uint8 and chunk.shape[1:] == (32, 48, 3) for chunk in chunks)


def test_the_whole_is_what_the_chunks_are(pipeline: MagiPipeline) -> None:
    chunks = np.concatenate(list(stream(pipeline, num_frames=30)))
    whole = pipeline(PROMPT, num_frames=30, generator=generator(), **SIZE).frames
    assert whole.shape == (1, 30, 32, 48, 3) and np.array_equal(np.rint(whole[0] * 255), chunks)
    (pictures,) = pipeline(PROMPT, num_frames=30, generator=generator(), output_type="pil", **SIZE).frames
    assert np.array_equal(np.stack([np.asarray(picture) for picture in pictures]), chunks)


def test_the_seed_and_the_prompt_count_and_nothing_else(pipeline: MagiPipeline) -> None:
    first, again = (np.concatenate(list(stream(pipeline, num_frames=48))) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, np.concatenate(list(stream(pipeline, num_frames=48, generator=generator(4)))))
    assert not np.array_equal(first, np.concatenate(list(stream(pipeline, "a circle moving up", num_frames=48))))


def test_the_noise_of_a_chunk_does_not_depend_on_the_window(pipeline: MagiPipeline) -> None:
    latents = torch.cat([torch.randn(1, 4, 6, 4, 6, generator=made) for made in [generator()] for _ in range(2)], dim=2)
    drawn = np.concatenate(list(stream(pipeline, num_frames=48)))
    given = np.concatenate(list(stream(pipeline, num_frames=48, latents=latents)))
    assert np.array_equal(drawn, given)
    with pytest.raises(ValueError, match=r"latents are \[1, 4, 12, 4, 6\], they must be \[1, 4, 18 or more, 4, 6\]"):
        list(stream(pipeline, num_frames=72, latents=latents))


def test_prompts_by_chunk(pipeline: MagiPipeline) -> None:
    both = list(stream(pipeline, ["a circle moving right", "a circle moving up"], num_frames=48))
    right = list(stream(pipeline, "a circle moving right", num_frames=48))
    assert np.array_equal(both[0], right[0]) and not np.array_equal(both[1], right[1])
    splitting = tiny_pipeline(split_prompts=True)
    split = list(stream(splitting, "a circle moving right then up", num_frames=48))
    assert all(np.array_equal(one, other) for one, other in zip(both, split, strict=True))
    with pytest.raises(ValueError, match="prompt has 3 parts, it must have 1 to 2"):
        list(stream(pipeline, ["a", "b", "c"], num_frames=48))


def test_an_image_is_the_first_frame(pipeline: MagiPipeline) -> None:
    picture = film(1)
    chunks = list(stream(pipeline, image=picture[0], num_frames=48))
    assert [len(chunk) for chunk in chunks] == [24, 24]
    assert np.array_equal(chunks[0][0], picture[0])
    file = io.BytesIO()
    Image.fromarray(picture[0]).save(file, "PNG")
    for image in (file.getvalue(), Image.fromarray(picture[0])):
        assert np.array_equal(np.concatenate(list(stream(pipeline, image=image, num_frames=48))), np.concatenate(chunks))


@pytest.mark.parametrize(
    ("given", "num_frames", "lengths"), [(32, 96, [48, 24, 24]), (3, 24, [24]), (41, 60, [49, 11]), (125, 140, [140])]
)
def test_a_video_is_continued_from_any_frame(pipeline: MagiPipeline, given: int, num_frames: int, lengths: list[int]) -> None:
    video = film(given)
    chunks = list(stream(pipeline, video=video, num_frames=num_frames))
    assert [len(chunk) for chunk in chunks] == lengths
    assert np.array_equal(np.concatenate(chunks)[:given], video)


def test_what_the_network_sees_ends_with_the_last_frame_given() -> None:
    for given, seen, latents in ((1, 1, 1), (3, 3, 1), (41, 40, 10), (125, 96, 24)):
        start = start_of(None, film(given), 32, 48, 200)
        assert (len(start.seen), start.latent_frames, start.offset) == (seen, latents, given - seen)
        assert np.array_equal(start.seen, start.given[-seen:])
    assert start_of(None, film(41), 32, 48, 100).num_latent_frames(100) == 25
    assert (
        start_of(None, None, 32, 48, 96).num_latent_frames(96)
        == 24
        == start_of(film(1), None, 32, 48, 96).num_latent_frames(96)
    )


def test_files_and_other_sizes_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(encode_mp4(np.repeat(film(1, 64, 64), 12, axis=0), 12))
    start = start_of(None, path, 32, 48, 96)
    assert len(start.given) == 24 and start.given.shape[1:] == (32, 48, 3)
    assert start_of(film(1, 64, 64), None, 32, 48, 96).given.shape == (1, 32, 48, 3)


def test_what_cannot_be_is_refused(pipeline: MagiPipeline) -> None:
    for options, message in (
        ({"height": 40}, "height is 40, it must be a multiple of 16"),
        ({"width": 16}, "width is 16, it must be a multiple of 16 and at least 32"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"num_inference_steps": 6}, "num_inference_steps is 6, it must be a multiple of 4"),
        ({"image": film(1), "video": film(4)}, "image and video were both given"),
        ({"video": film(48), "num_frames": 48}, "video has 48 frames at 24 frames/s, num_frames must be more; it is 48"),
        ({"video": b"nothing"}, "video is no video"),
        ({"image": film(1).astype(np.float32)}, "image is float32"),
    ):
        with pytest.raises(ValueError, match=message):
            list(stream(pipeline, **options))  # type: ignore[arg-type]


def test_progress_is_told_and_may_end_it(pipeline: MagiPipeline) -> None:
    planned: list[ChunkSchedule] = []
    steps: list[int] = []

    def step_end(_pipeline: MagiPipeline, step: int, done: Done, _kwargs: dict[str, Any]) -> None:
        steps.append(step)
        if step == 4:
            raise KeyboardInterrupt

    chunks = stream(pipeline, num_frames=48, on_schedule=planned.append, callback_on_step_end=step_end)
    assert len(next(chunks)) == 24 and steps == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        next(chunks)
    assert [schedule.num_updates for schedule in planned] == [5]


def test_the_original_is_reproduced_on_request(pipeline: MagiPipeline) -> None:
    original = {"reference_behaviour": True, "num_frames": 96}
    assert [len(chunk) for chunk in stream(pipeline, image=film(1), **original)] == [24] * 5
    assert [len(chunk) for chunk in stream(pipeline, num_frames=50, reference_behaviour=True)] == [24, 24]
    continued = [len(chunk) for chunk in stream(pipeline, video=film(60), **original)]
    assert continued == [13, 24, 24, 24, 24]  # 4 latent frames are decoded as 3 and 1


def test_distilled_networks_are_evaluated_with_a_step_size() -> None:
    chunks = list(stream(tiny_pipeline(distilled=True), num_frames=48, num_inference_steps=12))
    late = list(stream(tiny_pipeline(distilled=True), num_frames=48, num_inference_steps=12, shortcut_mode="16,16,8"))
    assert [len(chunk) for chunk in chunks] == [24, 24] and not np.array_equal(chunks[0], late[0])


def test_it_is_saved_and_loaded(pipeline: MagiPipeline, tmp_path: Path) -> None:
    tiny_pipeline(split_prompts=True).save_pretrained(tmp_path)
    folders = {path.name for path in tmp_path.iterdir()}
    assert folders == {"model_index.json", "special_tokens", "text_encoder", "tokenizer", "transformer", "vae"}
    loaded = MagiPipeline.from_pretrained(tmp_path)
    assert loaded.config.split_prompts
    ours, theirs = (np.concatenate(list(stream(one, num_frames=24))) for one in (pipeline, loaded))
    assert np.array_equal(ours, theirs)
