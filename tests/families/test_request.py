"""Requests: defaults, rounding of durations, and the limits of real variants (the server's tests cover the rest)."""

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.media.files import saved
from videosdgx.families import FAMILIES
from videosdgx.families.request import InvalidInput, parse_request
from videosdgx.families.spec import Input, Range, by_name
from videosdgx.media.video import encode_mp4, encode_png

WAN, MAGI = FAMILIES["wan21"], FAMILIES["magi1"]
DEMO = WAN.variant("demo")
REAL = WAN.variant("t2v-1.3b")


def test_everything_but_the_prompt_has_a_default() -> None:
    request = parse_request({"prompt": b"a cat"}, WAN, REAL)
    assert (request.width, request.height, request.num_frames, request.fps) == (832, 480, 81, 16)
    assert (request.num_inference_steps, request.guidance_scale, request.response_format) == (50, 6.0, "mp4")
    assert "blurred" in request.negative_prompt and parse_request({"prompt": "a cat"}, WAN, DEMO).negative_prompt == ""


def test_a_missing_seed_is_drawn_and_a_given_one_is_kept() -> None:
    assert len({parse_request({"prompt": "x"}, WAN, DEMO).seed for _ in range(8)}) > 1
    assert parse_request({"prompt": "x", "seed": 2**32 - 1}, WAN, DEMO).seed == 2**32 - 1


@pytest.mark.parametrize(("duration", "frames"), [(0.0, 1), (1.0, 17), (2.1, 33), (5.0, 81), (5.0625, 81)])
def test_a_duration_becomes_the_nearest_possible_number_of_frames(duration: float, frames: int) -> None:
    assert parse_request({"prompt": "x", "duration": duration}, WAN, REAL).num_frames == frames


def test_a_video_too_large_in_all_is_refused_though_each_side_is_allowed() -> None:
    with pytest.raises(InvalidInput, match="width x height x num_frames"):
        parse_request({"prompt": "x", "width": 1280, "height": 720}, WAN, REAL)


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
        ({"image": "data:image/png;base64,@"}, ["image is a data: URL whose base64 cannot be read"]),
        ({"image": b"GIF89a"}, ["image is neither a PNG nor a JPEG"]),
        ({"video": encode_png(np.zeros((64, 64, 3), np.uint8))}, ["video is no video", "a PNG image, give it as image"]),
        ({"background": "reddish"}, ["background is 'reddish'", "a colour such as #rrggbb or white"]),
        ({"background": "#ff800080"}, ["background is '#ff800080'", "a colour such as"]),
        ({"video": b"x" * 1000}, ["video is no video that can be decoded"]),
        ({"video": clip(24)[:600]}, ["video is no video that can be decoded"]),
        ({"video": clip(48), "num_frames": 24}, ["video is longer than the 24 frames"]),
        ({"video": clip(24), "num_frames": 24}, ["video has 24 frames", "as many as num_frames"]),
    ],
)
def test_what_a_clip_in_chunks_cannot_start_from_is_named(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_request({"prompt": "x", **values}, MAGI, CHUNKS)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_steps_that_weights_were_distilled_for_are_the_only_ones() -> None:
    distilled = replace(CHUNKS, step_counts=(8, 12, 16, 32, 64))
    assert parse_request({"prompt": "x", "num_inference_steps": 12}, MAGI, distilled).num_inference_steps == 12
    with pytest.raises(InvalidInput, match=r"num_inference_steps is 20, variant chunks takes 8, 12, 16, 32, 64"):
        parse_request({"prompt": "x", "num_inference_steps": 20}, MAGI, distilled)


def test_a_prefix_is_brought_to_size_and_rate_and_says_so() -> None:
    request = parse_request({"prompt": "x", "video": clip(12, fps=12, side=32)}, MAGI, CHUNKS)
    assert request.start == "video" and request.prefix is not None and request.window_size == 4
    assert request.prefix.frames.shape == (24, 64, 64, 3) and request.prefix.frames.dtype == np.uint8
    assert request.prefix.note == "video was 32x32 at 12 frames/s, it is resampled to 64x64 at 24 frames/s"
    same = parse_request({"prompt": "x", "video": clip(24)}, MAGI, CHUNKS).prefix
    assert same is not None and same.note == "" and same.frames.shape[0] == 24
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = parse_request({"prompt": "x", "image": encode_png(picture)}, MAGI, CHUNKS).prefix
    assert image is not None and image.note == "" and np.array_equal(image.frames, picture[None])


def test_what_is_transparent_lies_on_the_background_and_it_is_said() -> None:
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[..., 1] = 255  # hidden
    file = saved(Image.fromarray(clear, "RGBA"), "PNG")
    for given, value in (({}, (0, 0, 0)), ({"background": b"#ff8000"}, (255, 128, 0)), ({"background": "teal"}, (0, 128, 128))):
        request = parse_request({"prompt": "x", "image": file, **given}, MAGI, CHUNKS)
        assert request.prefix is not None and np.array_equal(request.prefix.frames, np.broadcast_to(value, (1, 64, 64, 3)))
        assert (
            request.prefix.note.startswith("image is transparent in parts, it is laid on ") and "background" not in request.more
        )


def test_a_file_may_come_as_text() -> None:
    file = clip(24)
    text = base64.b64encode(file)
    expected = parse_request({"prompt": "x", "video": file}, MAGI, CHUNKS).prefix
    for form in (text, text.decode(), b"data:video/mp4;base64," + text, "data:;base64," + text.decode()):
        prefix = parse_request({"prompt": "x", "video": form}, MAGI, CHUNKS).prefix
        assert prefix is not None and expected is not None and np.array_equal(prefix.frames, expected.frames)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"widht": 64}, "widht is no input of wan21, did you mean width?"),
        ({"window_size": 2}, "window_size is no input of wan21"),
        ({"width": "64"}, "width is '64', it must be a whole number"),
        ({"width": 64.5}, r"width is 64\.5, it must be a multiple of 16"),
        ({"seed": True}, "seed is True, it must be a whole number"),
        ({"seed": float("nan")}, "seed is nan, it must be a whole number from 0 to 4294967295"),
        ({"guidance_scale": "much"}, "guidance_scale is 'much', it must be a number"),
        ({"prompt": 7}, "prompt is 7, it must be text"),
        ({"prompt": " "}, "prompt is empty, it must say what the video shows"),
        ({"image": "x.png"}, "image must be the bytes of a file, or text that is their base64 or a data: URL"),
        ({"image": 7}, "image is of type int, it must be the bytes of a file"),
    ],
)
def test_what_is_not_as_the_table_says_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_request({"prompt": "x"} | values, WAN, DEMO)


def test_a_prompt_that_is_missing_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="prompt is empty, it must say what the video shows"):
        parse_request({"seed": 1}, WAN, DEMO)


OWN = by_name(
    (
        Input("audio_guidance", "FP32", "how closely the sound follows", low=0.0, high=10.0, default=2.5),
        Input("loop", "BOOL", "whether the end meets the beginning"),
        Input("style", "BYTES", "how it looks", choices=("plain", "drawn"), default="plain"),
        Input("times", "INT32", "when the images are shown", low=0, high=100, dims=(-1,)),
        Input("last_image", "BYTES", "PNG or JPEG that is the last frame", file=True),
    )
)
LATER = replace(WAN, name="later", inputs={**WAN.inputs, **OWN})


def test_inputs_that_only_one_family_has_need_no_field() -> None:
    usual = parse_request({"prompt": "x"}, LATER, DEMO)
    assert usual.more == {"audio_guidance": 2.5, "style": "plain"}
    values = {"audio_guidance": np.float32(3), "loop": np.bool_(True), "style": b"drawn", "times": [0, 8], "last_image": b"png"}
    request = parse_request({"prompt": "x", "seed": 4, "duration": 1.0, **values}, LATER, DEMO)
    assert request.more == {"audio_guidance": 3.0, "loop": True, "style": "drawn", "times": [0, 8], "last_image": b"png"}
    assert request.numbers(LATER) == {
        "width": 64, "height": 64, "num_frames": 9, "fps": 8, "seed": 4, "num_inference_steps": 20, "guidance_scale": 3.0,
        "audio_guidance": 3.0, "times": [0, 8],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"audio_guidance": 11}, r"audio_guidance is 11\.0, it must be a number from 0 to 10"),
        ({"loop": 1}, "loop is 1, it must be true or false"),
        ({"style": "blurred"}, "style is 'blurred', it must be one of plain, drawn"),
        ({"times": 3}, "times is 3, it must be a list"),
        ({"times": [3, 101]}, "times is 101, it must be a whole number from 0 to 100"),
    ],
)
def test_they_are_checked_by_the_table_too(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_request({"prompt": "x"} | values, LATER, DEMO)
