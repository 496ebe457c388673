"""Every input that cannot be used gets an error that names it and the limit, at once, and loads nothing."""

import time
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.conftest import Server
from tests.serving.calls import generate, status, tensor

pytestmark = pytest.mark.server

CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({"prompt": ""}, ["prompt", "empty"]),
    ({"prompt": "x" * 100_000}, ["prompt", "100000", "4000"]),
    ({"prompt": "x", "negative_prompt": "x" * 5000}, ["negative_prompt", "4000"]),
    ({"prompt": b"\xff\xfe"}, ["prompt", "UTF-8"]),
    ({"prompt": "x", "width": 0}, ["width", "multiple of 16 from 32 to 128"]),
    ({"prompt": "x", "width": 7}, ["width", "7", "multiple of 16"]),
    ({"prompt": "x", "height": 100_000}, ["height", "100000", "128"]),
    ({"prompt": "x", "num_frames": 8}, ["num_frames", "8", "4k+1"]),
    ({"prompt": "x", "num_frames": 9, "duration": 1.0}, ["duration", "num_frames"]),
    ({"prompt": "x", "duration": float("inf")}, ["duration", "inf"]),
    ({"prompt": "x", "fps": 0}, ["fps", "1 to 60"]),
    ({"prompt": "x", "num_inference_steps": -1}, ["num_inference_steps", "-1", "1 to 100"]),
    ({"prompt": "x", "seed": -1}, ["seed", "-1", "4294967295"]),
    ({"prompt": "x", "seed": 2**32}, ["seed", "4294967296"]),
    ({"prompt": "x", "guidance_scale": float("nan")}, ["guidance_scale", "nan", "0 to 30"]),
    ({"prompt": "x", "response_format": "gif"}, ["response_format", "gif", "mp4"]),
    ({"prompt": "x", "response_format": "png"}, ["response_format", "num_frames 1"]),
    ({"prompt": "x", "image": b"not an image"}, ["image", "text only"]),
]


@pytest.mark.parametrize(("values", "words"), CASES, ids=lambda case: str(case)[:40])
def test_a_bad_value_is_named_with_its_limit(server: Server, values: dict[str, Any], words: list[str]) -> None:
    loaded = {name: facts["pid"] for name, facts in status(server.http_url)["components"].items()}
    started = time.monotonic()
    with pytest.raises(InferenceServerException) as caught:
        generate(server.http_url, **values)
    assert time.monotonic() - started < 1
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert {name: facts["pid"] for name, facts in status(server.http_url)["components"].items()} == loaded


def test_wrong_type_and_shape_are_refused_by_name(server: Server) -> None:
    with http.InferenceServerClient(server.http_url) as client:
        with pytest.raises(InferenceServerException, match="width"):
            client.infer("wan21", [tensor("prompt", "x"), tensor("width", 64, "FP32")])
        two = http.InferInput("seed", [2], "INT64")
        two.set_data_from_numpy(np.array([1, 2], np.int64))
        with pytest.raises(InferenceServerException, match="seed"):
            client.infer("wan21", [tensor("prompt", "x"), two])
        with pytest.raises(InferenceServerException, match="prompt"):
            client.infer("wan21", [tensor("seed", 1)])


def test_the_server_still_works_afterwards(server: Server) -> None:
    video, _ = generate(server.http_url, prompt="a red circle moving up on a gray background", seed=1, num_inference_steps=2)
    assert video[4:8] == b"ftyp"
