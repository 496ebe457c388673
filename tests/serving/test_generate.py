"""A real server makes a video: what comes back, that it equals the pipeline in this process, that it repeats."""

import base64
import io
import json
import shutil
import subprocess

import av
import numpy as np
import pytest

from tests.conftest import Server
from tests.serving.calls import generate, post
from tests.serving.in_process import pieces
from videosdgx.families import FAMILIES
from videosdgx.media.video import encode_mp4

pytestmark = pytest.mark.server

PROMPT = "a red circle moving right on a teal background"
VARIANT = FAMILIES["wan21"].variant("demo")


def test_the_served_video_equals_the_pipeline_in_this_process(server: Server) -> None:
    (frames,) = pieces(server.home, "wan21", prompt=PROMPT, seed=7)
    video, metadata = generate(server.http_url, prompt=PROMPT, seed=7)
    # The encoder is deterministic, so equal files say that the frames were equal in every pixel.
    assert video == encode_mp4(frames, VARIANT.fps)
    assert metadata["precision"] == "fp8" and metadata["seed"] == 7
    (single,) = pieces(server.home, "wan21", prompt=PROMPT, seed=7, num_frames=1)
    png, _ = generate(server.http_url, prompt=PROMPT, seed=7, num_frames=1, response_format="png")
    with av.open(io.BytesIO(png)) as container:
        served = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(served.astype(int) - single[0].astype(int)).max() <= 1


def test_same_request_and_seed_give_the_same_bytes_and_another_seed_others(server: Server) -> None:
    first, metadata = generate(server.http_url, prompt=PROMPT, seed=3, num_inference_steps=4)
    second, _ = generate(server.http_url, prompt=PROMPT, seed=3, num_inference_steps=4)
    other, _ = generate(server.http_url, prompt=PROMPT, seed=4, num_inference_steps=4)
    assert first == second != other
    assert len(metadata["step_seconds"]) == len(metadata["transformer_seconds"]) == 4
    assert set(metadata["artifacts"]) == {"text_encoder", "transformer", "vae"}


def test_the_video_is_h264_that_browsers_play(server: Server, tmp_path: object) -> None:
    video, metadata = generate(server.http_url, prompt=PROMPT, seed=1, num_inference_steps=2, width=96, duration=0.7, fps=6)
    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (96, 64, 6)
        assert len(list(container.decode(video=0))) == metadata["num_frames"] == 5
    assert video.index(b"moov") < video.index(b"mdat")
    if shutil.which("ffprobe"):
        command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,pix_fmt,nb_frames", "-of", "json", "-i", "-"]
        probed = json.loads(subprocess.run(command, input=video, capture_output=True, check=True).stdout)["streams"][0]
        assert probed["codec_name"] == "h264" and probed["pix_fmt"] == "yuv420p"


def test_generate_over_plain_http_gives_base64_or_a_path(server: Server) -> None:
    body = {"prompt": PROMPT, "seed": 3, "num_inference_steps": 4, "response_format": "b64_json"}
    answer = json.loads(post(f"{server.http_url}/v2/models/wan21/generate", body))
    raw, _ = generate(server.http_url, prompt=PROMPT, seed=3, num_inference_steps=4)
    assert base64.b64decode(answer["video"]) == raw
    path, _ = generate(server.http_url, prompt=PROMPT, seed=3, num_inference_steps=4, response_format="path")
    written = server.home / "outputs" / path.decode().rpartition("/")[2]
    assert str(written) == path.decode() and written.read_bytes() == raw


def test_the_stream_tells_every_phase_and_step(server: Server) -> None:
    body = {"prompt": PROMPT, "seed": 3, "num_inference_steps": 4, "response_format": "b64_json"}
    text = post(f"{server.http_url}/v2/models/wan21_stream/generate_stream", body)
    answers = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    events = [json.loads(answer["event"]) for answer in answers if "event" in answer]
    assert [event["step"] for event in events if event["phase"] == "sampling"] == [0, 1, 2, 3, 4]
    phases = list(dict.fromkeys(event["phase"] for event in events))
    assert [phase for phase in phases if phase != "loading"] == ["queued", "encoding", "sampling", "decoding", "muxing", "done"]
    assert "video" in answers[-1] and all("video" not in answer for answer in answers[:-1])
