"""What MAGI-1 cannot start from or make is named with its limit, at once: what its table of inputs does not say by itself."""

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
    "more parts than chunks": (
        {"prompt": "a red circle moving right then up then left on a gray background", "num_frames": 48},
        ["prompt has 3 parts", "1 to 2, the chunks to be generated"],
    ),
    "steps for a window of 3": ({"num_inference_steps": 16, "window_size": 3}, ["is 16", "multiple of 12", "window_size 3"]),
    "a video for an image": ({"image": CLIP}, ["image is neither a PNG nor a JPEG"]),
    "half an image": ({"image": PICTURE[: len(PICTURE) // 2]}, ["image is a damaged image"]),
    "an image of absurd size": ({"image": huge_png()}, ["image is 12000x12000 pixels", "at most 33177600"]),
    "nothing for a video": ({"video": b""}, ["video is no video"]),
    "half a video": ({"video": CLIP[: len(CLIP) // 2]}, ["video is"]),
    "damaged video": ({"video": DAMAGED}, ["video is no video that can be decoded"]),
    "prefix longer than the clip": ({"video": CLIP, "num_frames": 24}, ["video is longer than the 24 frames"]),
    "prefix as long as the clip": ({"video": CLIP, "num_frames": 48}, ["video has 48 frames", "num_frames"]),
}


@pytest.fixture(scope="module", autouse=True)
def loaded(tiny_server: Server) -> None:
    """How many parts a prompt has is seen only by the pipeline, for which everything is loaded."""
    generate(tiny_server.http_url, "magi1", prompt="a red circle", num_frames=24, num_inference_steps=4)


@pytest.mark.parametrize("case", CASES)
def test_a_bad_value_is_named_with_its_limit(tiny_server: Server, case: str) -> None:
    values, words = CASES[case]
    loaded = {name: facts["pid"] for name, facts in status(tiny_server.http_url)["components"].items()}
    started = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        generate(tiny_server.http_url, "magi1", **({"prompt": "x"} | values))
    assert time.monotonic() - started < 1
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert {name: facts["pid"] for name, facts in status(tiny_server.http_url)["components"].items()} == loaded
