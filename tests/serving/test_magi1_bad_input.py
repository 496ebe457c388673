"""What MAGI-1 cannot start from or make is named with its limit, at once, and nothing is loaded."""

import time
import zlib
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.conftest import Server
from tests.serving.calls import generate, status
from videosdgx.media.video import encode_mp4, encode_png

pytestmark = pytest.mark.server

FRAMES = np.zeros((48, 64, 64, 3), np.uint8)
for number, frame in enumerate(FRAMES):
    frame[10:30, number % 40 : number % 40 + 20] = [200, 3 * number, 40]
CLIP = encode_mp4(FRAMES, 24)
PICTURE = encode_png(np.zeros((64, 64, 3), np.uint8))
DAMAGED = CLIP[: len(CLIP) // 2] + bytes(400) + CLIP[len(CLIP) // 2 + 400 :]


def huge_png() -> bytes:
    """A file of a few bytes that tells of 12000 x 12000 pixels."""
    header = bytearray(PICTURE)
    header[16:24] = (12_000).to_bytes(4) * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
    return bytes(header)


CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty prompt": ({"prompt": ""}, ["prompt", "empty"]),
    "prompt of 100 kB": ({"prompt": "x" * 100_000}, ["prompt has 100000 characters", "at most 4000"]),
    "more parts than chunks": (
        {"prompt": "a red circle moving right then up then left on a gray background", "num_frames": 48},
        ["prompt has 3 parts", "1 to 2, the chunks to be generated"],
    ),
    "prompt that is no text": ({"prompt": b"\xff\xfe"}, ["prompt is not valid UTF-8"]),
    "width": ({"width": 65}, ["width is 65", "multiple of 16", "128"]),
    "absurd width": ({"width": 100_000}, ["width is 100000", "multiple of 16", "128"]),
    "no height": ({"height": 0}, ["height is 0", "multiple of 16 from 32 to 128"]),
    "negative height": ({"height": -64}, ["height is -64", "multiple of 16 from 32 to 128"]),
    "no frames": ({"num_frames": 0}, ["num_frames is 0"]),
    "too long": ({"num_frames": 10**6}, ["num_frames is 1000000"]),
    "too long by duration": ({"duration": 1e6}, ["duration"]),
    "steps that the window does not divide": ({"num_inference_steps": 18}, ["num_inference_steps is 18", "multiple of 4"]),
    "steps for a window of 3": ({"num_inference_steps": 16, "window_size": 3}, ["is 16", "multiple of 12", "window_size 3"]),
    "window of 0": ({"window_size": 0}, ["window_size is 0", "1 to 4"]),
    "window of 9": ({"window_size": 9}, ["window_size is 9", "1 to 4"]),
    "image and video": ({"image": PICTURE, "video": CLIP}, ["image and video", "one of them"]),
    "not an image": ({"image": b"not an image"}, ["image is neither a PNG nor a JPEG"]),
    "a video for an image": ({"image": CLIP}, ["image is neither a PNG nor a JPEG"]),
    "half an image": ({"image": PICTURE[: len(PICTURE) // 2]}, ["image is a damaged image"]),
    "an image of absurd size": ({"image": huge_png()}, ["image is 12000x12000 pixels", "at most 33177600"]),
    "no video": ({"video": b"x" * 5000}, ["video is no video"]),
    "nothing for a video": ({"video": b""}, ["video is no video"]),
    "half a video": ({"video": CLIP[: len(CLIP) // 2]}, ["video is"]),
    "damaged video": ({"video": DAMAGED}, ["video is no video that can be decoded"]),
    "prefix longer than the clip": ({"video": CLIP, "num_frames": 24}, ["video is longer than the 24 frames"]),
    "prefix as long as the clip": ({"video": CLIP, "num_frames": 48}, ["video has 48 frames", "num_frames"]),
    "png of many frames": ({"response_format": "png"}, ["response_format", "num_frames 1"]),
}


@pytest.fixture(scope="module", autouse=True)
def prepared(magi1_server: Server) -> None:
    """A server that was started a moment ago still imports torch beside its first answers."""
    deadline = time.monotonic() + 60
    taken = 1.0
    while taken > 0.5 and time.monotonic() < deadline:
        started = time.monotonic()
        with pytest.raises(InferenceServerException):
            generate(magi1_server.http_url, "magi1", prompt="")
        taken = time.monotonic() - started


@pytest.mark.parametrize("case", CASES)
def test_a_bad_value_is_named_with_its_limit(magi1_server: Server, case: str) -> None:
    values, words = CASES[case]
    loaded = {name: facts["pid"] for name, facts in status(magi1_server.http_url)["components"].items()}
    started = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        generate(magi1_server.http_url, "magi1", **({"prompt": "x"} | values))
    assert time.monotonic() - started < 1
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert {name: facts["pid"] for name, facts in status(magi1_server.http_url)["components"].items()} == loaded


@pytest.mark.parametrize("name", ["negative_prompt", "guidance_scale"])
def test_what_the_family_has_no_use_for_is_no_input_of_it(magi1_server: Server, name: str) -> None:
    with pytest.raises(InferenceServerException, match=name):
        generate(magi1_server.http_url, "magi1", prompt="x", **{name: "y" if name == "negative_prompt" else 3.0})
