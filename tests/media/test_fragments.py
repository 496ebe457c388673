"""Fragments: each beginning of them plays, all of them hold every frame once and in time, the same chunks the same bytes."""

import io
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.video import encode_mp4

FPS = 24
SIZES = (13, 24, 1, 2, 24)


def moving_squares(count: int) -> np.ndarray:
    frames = np.full((count, 64, 96, 3), 90, np.uint8)
    for index, frame in enumerate(frames):
        frame[20:40, index % 60 : index % 60 + 20] = [200, 40, 4 * index % 255]
    return frames + np.random.default_rng(0).integers(0, 12, frames.shape, dtype=np.uint8)


def chunks() -> list[np.ndarray]:
    frames = moving_squares(sum(SIZES))
    return np.split(frames, np.cumsum(SIZES)[:-1])


def fragments() -> list[bytes]:
    encoder = FragmentEncoder(FPS)
    return [encoder.encode(frames) for frames in chunks()]


def decoded(data: bytes) -> tuple[np.ndarray, list[float]]:
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [float(frame.time) for frame in frames]


def test_every_beginning_plays_with_its_frames_in_time() -> None:
    parts = fragments()
    for count in range(1, len(parts) + 1):
        frames, times = decoded(b"".join(parts[:count]))
        assert len(frames) == sum(SIZES[:count])
        assert np.allclose(np.diff(times), 1 / FPS)
    source = np.concatenate(chunks()).astype(float)
    assert 10 * np.log10(255**2 / ((frames - source) ** 2).mean()) > 30


def test_the_format_is_what_browsers_play() -> None:
    data = b"".join(fragments())
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", FPS)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        packets = [packet for packet in container.demux(video=0) if packet.size]
    starts = [0, *itertools.accumulate(SIZES[:-1])]
    assert all(packets[start].is_keyframe for start in starts)
    assert data.count(b"moof") == len(SIZES) and data.count(b"moov") == 1


def test_a_fragment_is_ready_as_soon_as_its_frames_are() -> None:
    encoder = FragmentEncoder(FPS)
    frames, _ = decoded(encoder.encode(chunks()[1]))
    assert len(frames) == SIZES[1]


def test_the_same_chunks_give_the_same_bytes() -> None:
    assert fragments() == fragments()


def test_the_whole_file_has_an_index_in_front_and_the_same_frames() -> None:
    data = b"".join(fragments())
    whole = whole_mp4(data)
    assert whole == whole_mp4(data)
    assert whole.index(b"moov") < whole.index(b"mdat") and b"moof" not in whole
    frames, times = decoded(whole)
    assert np.array_equal(frames, decoded(data)[0])
    assert times[0] == 0 and np.allclose(np.diff(times), 1 / FPS)
    assert len(whole) < 1.3 * len(encode_mp4(np.concatenate(chunks()), FPS))


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffprobe_counts_every_frame_and_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"".join(fragments()))
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_entries", "stream=nb_read_frames,codec_name", "-of", "json"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    (stream,) = json.loads(done.stdout)["streams"]
    assert stream == {"codec_name": "h264", "nb_read_frames": str(sum(SIZES))} and done.stderr == ""
