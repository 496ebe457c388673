"""What MAGI-1 does that other families do not: chunks as they come, in memory that does not grow, and after what was there."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest

from client import Chunk, Event, VideoClient
from tests.conftest import Server
from tests.contract.in_process import pieces
from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.prefix import read_video
from videosdgx.media.video import encode_mp4, encode_png

pytestmark = pytest.mark.server

PROMPT = "a red circle moving right then up on a teal background"
PLAIN = "a red circle moving right on a teal background"  # where a single chunk is to be made


@pytest.fixture(scope="module")
def client(tiny_server: Server) -> Iterator[VideoClient]:
    with VideoClient(tiny_server.http_url) as client:
        client.generate("magi1", PLAIN, num_frames=24, num_inference_steps=4)  # so that the components are loaded
        yield client


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_fragment_for_each_chunk_comes_before_the_next_chunk_is_finished(client: VideoClient) -> None:
    order: list[str] = []
    chunks: list[Chunk] = []

    def on_chunk(chunk: Chunk) -> None:
        chunks.append(chunk)
        order.append(f"chunk {chunk.number}")
        # What has come so far plays by itself.
        assert len(decoded(b"".join(one.data for one in chunks))) == 24 * chunk.number

    def on_progress(event: Event) -> None:
        if event.phase == "sampling":
            order.append(f"step {event.step} of {event.steps}")

    video = client.generate(
        "magi1", PROMPT, seed=7, num_frames=96, num_inference_steps=4, on_chunk=on_chunk, on_progress=on_progress
    )
    # A window of 4, one step a stage: 7 steps, the first chunk is clean after 4 of them, the others after one more each.
    assert [order.index(f"chunk {number}") < order.index(f"step {number + 4} of 7") for number in (1, 2, 3)] == [True] * 3
    assert [(chunk.number, chunk.chunks) for chunk in chunks] == [(number, 4) for number in (1, 2, 3, 4)]
    assert video.data == whole_mp4(b"".join(chunk.data for chunk in chunks))
    facts = video.metadata
    assert facts["chunks"] == 4 and facts["num_frames"] == 96 and facts["chunk_seconds"] == sorted(facts["chunk_seconds"])
    assert facts["window_size"] == 4 and len(facts["step_seconds"]) == 7


def held(client: VideoClient) -> int:
    """Bytes that the transformer keeps for generations."""
    return client.status()["components"]["magi1_transformer"]["state_bytes"]


def test_ten_chunks_take_no_more_memory_than_five(client: VideoClient) -> None:
    def peak(chunks: int) -> tuple[int, dict[str, int]]:
        kept: list[int] = []
        client.generate(
            "magi1", PROMPT, seed=1, num_frames=24 * chunks, num_inference_steps=4,
            on_progress=lambda event: kept.append(held(client) if event.phase == "chunk" else 0),
        )  # fmt: skip
        components = client.status()["components"]
        return max(kept), {name: facts["memory_bytes"] for name, facts in components.items() if name.startswith("magi1_")}

    kept_of_five, memory_of_five = peak(5)
    kept_of_ten, memory_of_ten = peak(10)
    assert kept_of_ten == kept_of_five > 0
    for name, taken in memory_of_ten.items():
        assert taken < memory_of_five[name] + 4e6, (name, memory_of_five[name], taken)


def drifting_blob(count: int) -> np.ndarray:
    """Frames uint8 [count,64,64,3] without noise or hard edges: what the encoder keeps."""
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    centres = 16 + np.arange(count, dtype=np.float32)[:, None, None] / 2
    near = np.exp(-((x - centres) ** 2 + (y - 32) ** 2) / 200)[..., None]
    return np.rint(np.array([20, 110, 115]) * (1 - near) + np.array([210, 60, 50]) * near).astype(np.uint8)


def test_a_clip_continues_a_video(client: VideoClient, tiny_server: Server) -> None:
    frames = drifting_blob(48)
    values: dict[str, Any] = {"prompt": PLAIN, "video": encode_mp4(frames, 24), "seed": 5, "num_inference_steps": 4}
    values["num_frames"] = 72
    streamed: list[Chunk] = []
    made = client.generate("magi1", on_chunk=streamed.append, **values)
    # The length asked for counts the video, which comes with the first of the chunks that are made.
    assert made.metadata["num_frames"] == 72 and "resampled" not in made.metadata["note"]
    assert len(streamed) == made.metadata["chunks"] == 1
    # Byte for byte what the pipeline makes here, so the beginning has gone through no autoencoder and the rest has seen it.
    expected = list(pieces(tiny_server.home, "magi1", **values))
    assert streamed[0].data == FragmentEncoder(24).encode(*expected)
    # Encoded twice: no frame is missing, moved or darker.
    difference = decoded(made.data)[:48].astype(int) - frames
    assert np.abs(difference).mean(axis=(1, 2, 3)).max() < 2.5
    assert np.array_equal(expected[0][:48], read_video(values["video"], 64, 64, 24, 72).frames)


def test_what_a_clip_begins_with_is_brought_to_its_size_and_rate(client: VideoClient) -> None:
    values: dict[str, Any] = {"seed": 5, "num_inference_steps": 4, "num_frames": 72}
    other = client.generate("magi1", PLAIN, video=encode_mp4(np.zeros((24, 48, 32, 3), np.uint8), 12), **values)
    assert len(decoded(other.data)) == 72
    assert "video was 32x48 at 12 frames/s, it is resampled to 64x64 at 24 frames/s" in other.metadata["note"]
    assert decoded(other.data)[:48].max() < 8 < decoded(other.data)[48:].max()  # 24 frames at 12/s are 48 at 24/s
    picture = encode_png(np.full((32, 32, 3), 200, np.uint8))
    third = client.generate("magi1", PROMPT, image=picture, **values)
    assert "image was 32x32, it is scaled to 64x64" in third.metadata["note"]
    assert np.abs(decoded(third.data)[0].astype(int) - 200).mean() < 3
