"""Every family makes the clip that its pipeline makes, by every way of asking, and tells how it went."""

import base64
import hashlib
import io
import itertools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
import pytest

from client import Chunk, Event, VideoClient
from tests.conftest import Server
from tests.contract import in_process
from tests.contract.conftest import Made
from tests.contract.requests import lasting, nearest, small, variant_of
from tests.contract.tiny_home import PRECISION
from tests.serving.calls import generate, generate_over_grpc, generate_stream, post
from videosdgx.artifacts import MANIFEST
from videosdgx.families import FAMILIES
from videosdgx.media.fragments import whole_mp4
from videosdgx.media.video import encode_png

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("left_idle")]


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_served_clip_is_what_the_pipeline_makes_in_this_process(
    family: str, made: Callable[..., Made], tiny_server: Server
) -> None:
    values = small(family)
    assert made(family, **values).video.data == in_process.file(tiny_server.home, family, **values)


# Ways to ask ---------------------------------------------------------------------------------------------------------


def in_parts(server: Server, family: str, **values: Any) -> bytes:
    chunks: list[Chunk] = []
    video = VideoClient(server.http_url).generate(family, on_chunk=chunks.append, **values)
    if not chunks:
        return video.data
    # Each fragment goes on where the one before it ended, and in a row they are the clip.
    assert [(chunk.number, chunk.chunks) for chunk in chunks] == [(n, len(chunks)) for n in range(1, len(chunks) + 1)]
    fragments = b"".join(chunk.data for chunk in chunks)
    assert video.data == whole_mp4(fragments) and np.array_equal(decoded(video.data), decoded(fragments))
    return video.data


def with_tritonclient_over_http(server: Server, family: str, **values: Any) -> bytes:
    return generate(server.http_url, family, **values)[0]


def with_tritonclient_over_grpc(server: Server, family: str, **values: Any) -> bytes:
    return generate_over_grpc(server.grpc_url, family, **values)[0]


def as_base64(server: Server, family: str, **values: Any) -> bytes:
    answer = json.loads(post(f"{server.http_url}/v2/models/{family}/generate", values | {"response_format": "b64_json"}))
    return base64.b64decode(answer["video"])


def as_a_path(server: Server, family: str, **values: Any) -> bytes:
    answer = json.loads(post(f"{server.http_url}/v2/models/{family}/generate", values | {"response_format": "path"}))
    return written(server, answer["video"])


def written(server: Server, path: str) -> bytes:
    """The file at a path that the server told: in its folder of outputs, where nothing half-written lies."""
    file = server.home / "outputs" / path.rpartition("/")[2]
    assert str(file) == path and not list(file.parent.glob(".*"))
    return file.read_bytes()


def as_a_stream(server: Server, family: str, **values: Any) -> bytes:
    answers = generate_stream(server.http_url, family, **values, response_format="b64_json")
    videos = [(answer["event"]["phase"], base64.b64decode(answer["video"])) for answer in answers if "video" in answer]
    assert "metadata" in answers[-1] and not any("metadata" in answer for answer in answers[:-1])
    if [phase for phase, _ in videos] == ["done"]:
        return videos[0][1]
    # A family that makes a clip in chunks sends each when it is there.
    assert {phase for phase, _ in videos} == {"chunk"} and len(videos) == answers[-1]["metadata"]["chunks"]
    return whole_mp4(b"".join(fragment for _, fragment in videos))


def as_a_stream_with_a_path(server: Server, family: str, **values: Any) -> bytes:
    answers = generate_stream(server.http_url, family, **values, response_format="path")
    assert ["video" in answer for answer in answers] == [False] * (len(answers) - 1) + [True]
    return written(server, answers[-1]["video"])


WAYS = (
    in_parts, with_tritonclient_over_http, with_tritonclient_over_grpc, as_base64, as_a_path, as_a_stream,
    as_a_stream_with_a_path,
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_ask_gives_the_same_file(
    family: str, way: Callable[..., bytes], made: Callable[..., Made], tiny_server: Server
) -> None:
    values = small(family)
    assert way(tiny_server, family, **values) == made(family, **values).video.data


# What comes ----------------------------------------------------------------------------------------------------------


def test_the_same_request_and_seed_give_the_same_bytes_and_another_seed_or_prompt_others(
    family: str, made: Callable[..., Made], client: VideoClient
) -> None:
    first = made(family, **small(family)).video
    assert client.generate(family, **small(family)).data == first.data
    others = {made(family, **small(family, seed=8)).video.data, made(family, **small(family, example=1)).video.data}
    assert len(others | {first.data}) == 3


def test_without_a_seed_one_is_drawn_and_told_so_that_the_clip_can_be_made_again(family: str, client: VideoClient) -> None:
    values = {name: value for name, value in small(family).items() if name != "seed"}
    drawn = [client.generate(family, **values) for _ in range(2)]
    assert drawn[0].metadata["seed"] != drawn[1].metadata["seed"]
    assert client.generate(family, **values, seed=drawn[0].metadata["seed"]).data == drawn[0].data != drawn[1].data


def test_the_file_is_h264_of_the_size_length_and_rate_that_were_asked_for(family: str, client: VideoClient) -> None:
    variant = variant_of(family)
    width, fps = nearest(variant.sides, 1.5 * variant.width), variant.fps - 2
    frames = nearest(variant.frames, variant.num_frames / 2)
    values = {name: value for name, value in small(family).items() if name != "num_frames"}
    video = client.generate(family, **values, width=width, fps=fps, duration=frames / fps)
    with av.open(io.BytesIO(video.data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (width, variant.height, fps)
        assert len(list(container.decode(video=0))) == video.metadata["num_frames"] == frames
    assert video.data.index(b"moov") < video.data.index(b"mdat")  # a browser need not have all of it to begin
    if shutil.which("ffprobe"):
        command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,pix_fmt", "-of", "json", "-i", "-"]
        probed = json.loads(subprocess.run(command, input=video.data, capture_output=True, check=True).stdout)["streams"][0]
        assert probed["codec_name"] == "h264" and probed["pix_fmt"] == "yuv420p"


def test_a_single_frame_may_be_a_picture(family: str, client: VideoClient, tiny_server: Server) -> None:
    if 1 not in variant_of(family).frames:
        pytest.skip(f"a clip of {family} has more frames than one")
    # The examples may tell of more than one frame can show.
    values = small(family) | {"prompt": "a red circle", "num_frames": 1, "response_format": "png"}
    (frames,) = in_process.pieces(tiny_server.home, family, **values)
    assert client.generate(family, **values).data == encode_png(frames[0])
    assert len(frames) == 1


def test_the_metadata_tell_what_was_made_how_long_it_took_and_of_which_artifacts(
    family: str, made: Callable[..., Made], tiny_server: Server
) -> None:
    values, spec, variant = small(family), FAMILIES[family], variant_of(family)
    clip = made(family, **values)
    facts = clip.video.metadata
    served = {"family": family, "variant": variant.name, "precision": PRECISION, "target": "cpu"}
    chosen = {name: getattr(variant, name) for name in spec.inputs if hasattr(variant, name) and spec.inputs[name].is_number}
    expected = served | chosen | {name: value for name, value in values.items() if name != "prompt"}
    assert {name: facts[name] for name in expected} == expected
    steps = clip.events[-1].steps
    assert steps >= values["num_inference_steps"]
    assert len(facts["step_seconds"]) == len(facts["transformer_seconds"]) == steps
    assert all(0 < inner < outer for inner, outer in zip(facts["transformer_seconds"], facts["step_seconds"], strict=True))
    seconds = facts["seconds"]
    assert {"encoding", "sampling", "decoding", "muxing", "total"} <= seconds.keys()
    assert sum(facts["step_seconds"]) < seconds["total"] and sum(seconds.values()) - seconds["total"] < seconds["total"] + 0.01
    below = tiny_server.home / "artifacts" / family / variant.name
    assert facts["artifacts"].keys() == spec.components.keys()
    for name, digest in facts["artifacts"].items():
        found = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (below / name).glob(f"*/{MANIFEST}")}
        assert found == {digest}, name


def test_events_tell_every_phase_and_every_step_in_their_order(family: str, made: Callable[..., Made]) -> None:
    clip = made(family, **small(family))
    phases = list(dict.fromkeys(event.phase for event in clip.events if event.phase != "loading"))
    in_chunks = ["chunk"] if clip.video.metadata.get("chunks") else []
    assert phases == ["queued", "encoding", "sampling", "decoding", "muxing", *in_chunks, "done"]
    steps = clip.events[-1].steps
    told = [event.step for event in clip.events if event.phase == "sampling"]
    # Sampling goes on where it was when a chunk has been decoded: that step is told twice.
    assert [step for step, _ in itertools.groupby(told)] == list(range(steps + 1))
    assert all(before.elapsed <= after.elapsed for before, after in itertools.pairwise(clip.events))
    assert {event.id for event in clip.events} == {clip.video.metadata["id"]}


# Several at once -----------------------------------------------------------------------------------------------------


def test_two_at_once_do_not_mix(family: str, made: Callable[..., Made], client: VideoClient) -> None:
    first, second = lasting(family, seed=7), lasting(family, seed=8)
    both: list[int] = []
    others: list[bytes] = []

    def second_one() -> None:
        def watch(event: Event) -> None:
            if event.phase == "sampling" and not both:
                both.append(len(client.status()["leases"]))

        others.append(client.generate(family, on_progress=watch, timeout=120, **second).data)

    other = threading.Thread(target=second_one)

    def watch(event: Event) -> None:
        if event.phase == "sampling" and not other.ident:
            other.start()

    one = client.generate(family, on_progress=watch, timeout=120, **first).data
    other.join()
    assert both == [2], "they did not run at the same time"
    assert [one, *others] == [made(family, **values).video.data for values in (first, second)]


def test_six_at_once_all_arrive(family: str, made: Callable[..., Made], client: VideoClient) -> None:
    requests = [small(family, seed=seed, example=seed % 2) for seed in range(6)]
    with ThreadPoolExecutor(len(requests)) as pool:
        files = [video.data for video in pool.map(lambda values: client.generate(family, timeout=120, **values), requests)]
    assert files == [made(family, **values).video.data for values in requests]
    assert len(set(files)) == len(requests)
