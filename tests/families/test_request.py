"""Requests: defaults, rounding of durations, and the limits of real variants (the server's tests cover the rest)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from videosdgx.families import FAMILIES
from videosdgx.families.request import InvalidInput, parse_request
from videosdgx.families.spec import Range
from videosdgx.media.video import encode_mp4, encode_png

DEMO = FAMILIES["wan21"].variants["demo"]
REAL = FAMILIES["wan21"].variants["t2v-1.3b"]


def test_everything_but_the_prompt_has_a_default() -> None:
    request = parse_request({"prompt": b"a cat"}, REAL)
    assert (request.width, request.height, request.num_frames, request.fps) == (832, 480, 81, 16)
    assert (request.num_inference_steps, request.guidance_scale, request.response_format) == (50, 6.0, "mp4")
    assert "blurred" in request.negative_prompt and parse_request({"prompt": "a cat"}, DEMO).negative_prompt == ""


def test_a_missing_seed_is_drawn_and_a_given_one_is_kept() -> None:
    assert len({parse_request({"prompt": "x"}, DEMO).seed for _ in range(8)}) > 1
    assert parse_request({"prompt": "x", "seed": 2**32 - 1}, DEMO).seed == 2**32 - 1


@pytest.mark.parametrize(("duration", "frames"), [(0.0, 1), (1.0, 17), (2.1, 33), (5.0, 81), (5.0625, 81)])
def test_a_duration_becomes_the_nearest_possible_number_of_frames(duration: float, frames: int) -> None:
    assert parse_request({"prompt": "x", "duration": duration}, REAL).num_frames == frames


def test_a_video_too_large_in_all_is_refused_though_each_side_is_allowed() -> None:
    with pytest.raises(InvalidInput, match="width x height x num_frames"):
        parse_request({"prompt": "x", "width": 1280, "height": 720}, REAL)


def test_ranges_say_what_they_hold() -> None:
    frames = Range(1, 17, 4)
    assert [n for n in range(20) if n in frames] == [1, 5, 9, 13, 17] and str(frames) == "4k+1 from 1 to 17"
    assert str(Range(16, 64, 16)) == "a multiple of 16 from 16 to 64" and 24 not in Range(16, 64, 16)


CHUNKS = replace(
    DEMO, name="chunks", frames=Range(24, 960, 24), num_frames=96, fps=24, max_pixels=128 * 128 * 960, window_size=4,
    num_inference_steps=16, starts_from=("image", "video"),
)  # fmt: skip


def clip(count: int, fps: int = 24, side: int = 64) -> bytes:
    frames = np.zeros((count, side, side, 3), np.uint8)
    frames[:, 8:24] = np.arange(count, dtype=np.uint8)[:, None, None, None] * 5
    return encode_mp4(frames, fps)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_inference_steps": 18}, ["num_inference_steps is 18", "multiple of 4", "window_size 4"]),
        ({"num_inference_steps": 16, "window_size": 3}, ["num_inference_steps is 16", "multiple of 12", "window_size 3"]),
        ({"window_size": 5}, ["window_size is 5", "1 to 4"]),
        ({"image": b"x", "video": b"x"}, ["image and video", "one of them"]),
        ({"image": b"x"}, ["image is neither a PNG nor a JPEG"]),
        ({"image": encode_png(np.zeros((64, 64, 3), np.uint8))[:60]}, ["image is a damaged image"]),
        ({"video": b"x" * 1000}, ["video is no video that can be decoded"]),
        ({"video": clip(24)[:600]}, ["video is no video that can be decoded"]),
        ({"video": clip(48), "num_frames": 24}, ["video is longer than the 24 frames"]),
        ({"video": clip(24), "num_frames": 24}, ["video has 24 frames", "as many as num_frames"]),
    ],
)
def test_what_a_clip_in_chunks_cannot_start_from_is_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_request({"prompt": "x", **values}, CHUNKS)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_steps_that_weights_were_distilled_for_are_the_only_ones() -> None:
    distilled = replace(CHUNKS, step_counts=(8, 12, 16, 32, 64))
    assert parse_request({"prompt": "x", "num_inference_steps": 12}, distilled).num_inference_steps == 12
    with pytest.raises(InvalidInput, match=r"num_inference_steps is 20, variant chunks takes 8, 12, 16, 32, 64"):
        parse_request({"prompt": "x", "num_inference_steps": 20}, distilled)


def test_a_prefix_is_brought_to_size_and_rate_and_says_so() -> None:
    request = parse_request({"prompt": "x", "video": clip(12, fps=12, side=32)}, CHUNKS)
    assert request.start == "video" and request.prefix is not None and request.window_size == 4
    assert request.prefix.frames.shape == (24, 64, 64, 3) and request.prefix.frames.dtype == np.uint8
    assert request.prefix.note == "video was 32x32 at 12 frames/s, it is resampled to 64x64 at 24 frames/s"
    same = parse_request({"prompt": "x", "video": clip(24)}, CHUNKS).prefix
    assert same is not None and same.note == "" and same.frames.shape[0] == 24
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = parse_request({"prompt": "x", "image": encode_png(picture)}, CHUNKS).prefix
    assert image is not None and image.note == "" and np.array_equal(image.frames, picture[None])
