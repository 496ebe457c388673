"""What goes over JSON: files as text, and fields that are no input."""

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import av
import numpy as np
import pytest

from tests.conftest import Server
from videosdgx.media.video import encode_png

pytestmark = pytest.mark.server

PICTURE = np.full((64, 64, 3), (30, 140, 220), np.uint8)
TEXT = base64.b64encode(encode_png(PICTURE)).decode()
SHORT: dict[str, Any] = {
    "prompt": "x", "width": 64, "height": 64, "num_frames": 24, "num_inference_steps": 4, "response_format": "b64_json",
}  # fmt: skip


def post(server: Server, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and text of the answer."""
    url = f"http://{server.http_url}/v2/models/{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("text", [TEXT, f"data:image/png;base64,{TEXT}"], ids=["base64", "data URL"])
def test_a_clip_starts_from_an_image_in_base64(server: Server, text: str) -> None:
    status, answer = post(server, "magi1/generate", {**SHORT, "image": text})
    assert status == 200, answer
    with av.open(io.BytesIO(base64.b64decode(json.loads(answer)["video"]))) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(first.astype(int) - PICTURE).max() <= 6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sead": 3}, "sead is no input of magi1, did you mean seed?"),
        ({"whole": 1}, "whole is 1, it must be true or false"),
        ({"image": "data:image/png;base64,@"}, "image is a data: URL whose base64 cannot be read"),
        ({"image": TEXT[:40]}, "image is a damaged image"),
        ({"image": "x.png"}, "image is neither a PNG nor a JPEG image"),
        ({"background": "reddish"}, "background is 'reddish', it must be a colour"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(server: Server, fields: dict[str, Any], words: str) -> None:
    status, answer = post(server, "magi1/generate", {**SHORT, **fields})
    assert status == 400 and words in json.loads(answer)["error"]
    status, answer = post(server, "magi1_stream/generate_stream", {**SHORT, **fields})
    assert status == 200 and f'data: {{"error":"magi1_stream: {words}' in answer


def test_triton_s_own_fields_are_left_alone(server: Server) -> None:
    status, answer = post(server, "magi1/generate", {**SHORT, "id": "mine", "priority": 0, "timeout": 0})
    assert status == 200, answer
