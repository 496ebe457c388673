"""MAGI-1 on a real server: chunks as they come, the same clip by every way, recovery, and memory that does not grow."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
import pytest

from client import Chunk, Event, Video, VideoClient
from tests.conftest import Server
from tests.serving.calls import generate, post
from tests.serving.in_process import pieces
from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.prefix import read_video
from videosdgx.media.video import encode_mp4, encode_png

pytestmark = pytest.mark.server

PROMPT = "a red circle moving right then up on a teal background"
PLAIN = "a red circle moving right on a teal background"  # where a single chunk is to be made
COMPONENT = "magi1_transformer"


@pytest.fixture(scope="module")
def client(magi1_server: Server) -> Iterator[VideoClient]:
    with VideoClient(magi1_server.http_url) as client:
        client.generate("magi1", PLAIN, num_frames=24, num_inference_steps=4)  # so that the components are loaded
        yield client


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def held(client: VideoClient) -> tuple[int, int]:
    """Generations that the transformer keeps something for, and how many bytes."""
    facts = client.status()["components"][COMPONENT]
    return facts["generations"], facts["state_bytes"]


def watched(client: VideoClient, at: tuple[str, int], action: Callable[[], None], **values: Any) -> Video:
    """A clip in whose making `action` is done once, at the event of a phase and step."""
    done: list[bool] = []

    def watch(event: Event) -> None:
        if (event.phase, event.step) == at and not done:
            done.append(True)
            action()

    video = client.generate("magi1", PROMPT, on_progress=watch, **values)
    assert done
    return video


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


def test_every_way_gives_the_clip_that_the_pipeline_makes_in_this_process(client: VideoClient, magi1_server: Server) -> None:
    values = {"prompt": PROMPT, "seed": 7, "num_frames": 60, "num_inference_steps": 4}
    made = list(pieces(magi1_server.home, "magi1", **values))
    encoder = FragmentEncoder(24)
    expected = [encoder.encode(frames) for frames in made]
    # The encoder is deterministic, so equal files say that the frames were equal in every pixel.
    streamed: list[Chunk] = []
    client.generate("magi1", on_chunk=streamed.append, **values)
    assert [chunk.data for chunk in streamed] == expected
    whole, metadata = generate(magi1_server.http_url, "magi1", **values)
    assert whole == whole_mp4(b"".join(expected)) and metadata["seed"] == 7
    assert np.array_equal(decoded(whole), decoded(b"".join(expected)))
    assert client.generate("magi1", **values).data == whole
    assert client.generate("magi1", **(values | {"seed": 8})).data != whole
    encoded, _ = generate(magi1_server.http_url, "magi1", response_format="b64_json", **values)
    path, _ = generate(magi1_server.http_url, "magi1", response_format="path", **values)
    written = magi1_server.home / "outputs" / path.decode().rpartition("/")[2]
    assert base64.b64decode(encoded) == written.read_bytes() == whole
    assert not list(written.parent.glob(".*"))


def test_over_plain_http_fragments_come_as_base64_and_a_path_comes_at_the_end(magi1_server: Server) -> None:
    body = {"prompt": PROMPT, "seed": 7, "num_frames": 48, "num_inference_steps": 4, "response_format": "b64_json"}
    url = f"{magi1_server.http_url}/v2/models/magi1_stream/generate_stream"
    answers = [json.loads(line.removeprefix("data: ")) for line in post(url, body).splitlines() if line.startswith("data: ")]
    fragments = [base64.b64decode(answer["video"]) for answer in answers if "video" in answer]
    assert [json.loads(answer["event"])["phase"] for answer in answers if "video" in answer] == ["chunk", "chunk"]
    assert len(decoded(b"".join(fragments))) == 48 and "metadata" in answers[-1]
    text = post(url, body | {"response_format": "path"})
    answers = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert ["video" in answer for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert len(decoded((magi1_server.home / "outputs" / answers[-1]["video"].rpartition("/")[2]).read_bytes())) == 48


def test_unloading_in_mid_generation_only_delays_it(client: VideoClient) -> None:
    values: dict[str, Any] = {"seed": 3, "num_frames": 144, "num_inference_steps": 8}
    expected = client.generate("magi1", PROMPT, **values)
    before = client.status()["components"][COMPONENT]["pid"]
    # After 13 of 18 steps the window has moved: keys and values of a clean chunk are lost.
    video = watched(client, ("sampling", 13), lambda: client.unload(COMPONENT), **values)
    assert video.data == expected.data
    assert client.status()["components"][COMPONENT]["pid"] != before
    assert held(client) == (0, 0)


def test_cancelling_releases_what_was_kept(client: VideoClient) -> None:
    class Enough(Exception):
        pass

    kept: list[tuple[int, int]] = []

    def stop(event: Event) -> None:
        if event.phase == "sampling" and event.step == 3:
            kept.append(held(client))
            raise Enough

    with pytest.raises(Enough):
        client.generate("magi1", PROMPT, num_frames=240, num_inference_steps=8, on_progress=stop)
    assert kept[0][0] == 1 and kept[0][1] > 100_000
    deadline = time.monotonic() + 1.5
    while held(client) != (0, 0) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert held(client) == (0, 0) and not client.status()["leases"]


def test_ten_chunks_take_no_more_memory_than_five(client: VideoClient) -> None:
    def peak(chunks: int) -> tuple[int, dict[str, int]]:
        kept: list[int] = []
        client.generate(
            "magi1", PROMPT, seed=1, num_frames=24 * chunks, num_inference_steps=4,
            on_progress=lambda event: kept.append(held(client)[1] if event.phase == "chunk" else 0),
        )  # fmt: skip
        components = client.status()["components"]
        return max(kept), {name: facts["memory_bytes"] for name, facts in components.items() if name.startswith("magi1_")}

    kept_of_five, memory_of_five = peak(5)
    kept_of_ten, memory_of_ten = peak(10)
    assert kept_of_ten == kept_of_five > 0
    for name, taken in memory_of_ten.items():
        assert taken < memory_of_five[name] + 4e6, (name, memory_of_five[name], taken)


def test_two_at_once_do_not_mix(client: VideoClient) -> None:
    values: dict[str, Any] = {"num_frames": 72, "num_inference_steps": 4}
    alone = client.generate("magi1", PROMPT, seed=1, **values).data
    others: list[bytes] = []
    # The second one is made while the first one waits for its callback.
    both = watched(
        client,
        ("sampling", 5),
        lambda: others.append(client.generate("magi1", PROMPT, seed=2, **values).data),
        seed=1,
        **values,
    )
    assert both.data == alone != others[0]


def drifting_blob(count: int) -> np.ndarray:
    """Frames uint8 [count,64,64,3] without noise or hard edges: what the encoder keeps."""
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    centres = 16 + np.arange(count, dtype=np.float32)[:, None, None] / 2
    near = np.exp(-((x - centres) ** 2 + (y - 32) ** 2) / 200)[..., None]
    return np.rint(np.array([20, 110, 115]) * (1 - near) + np.array([210, 60, 50]) * near).astype(np.uint8)


def test_a_clip_continues_a_video(client: VideoClient, magi1_server: Server) -> None:
    frames = drifting_blob(48)
    values: dict[str, Any] = {"prompt": PLAIN, "video": encode_mp4(frames, 24), "seed": 5, "num_inference_steps": 4}
    values["num_frames"] = 72
    streamed: list[Chunk] = []
    made = client.generate("magi1", on_chunk=streamed.append, **values)
    # The length asked for counts the video, which comes with the first of the chunks that are made.
    assert made.metadata["num_frames"] == 72 and "resampled" not in made.metadata["note"]
    assert len(streamed) == made.metadata["chunks"] == 1
    # Byte for byte what the pipeline makes here, so the beginning has gone through no autoencoder and the rest has seen it.
    expected = list(pieces(magi1_server.home, "magi1", **values))
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


def test_a_single_frame_may_be_a_png(client: VideoClient) -> None:
    still = client.generate("magi1", PLAIN, seed=1, num_frames=1, num_inference_steps=4, response_format="png")
    assert decoded(still.data).shape == (1, 64, 64, 3) and still.data.startswith(b"\x89PNG")
