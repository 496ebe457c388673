"""What a clip starts from, brought to its size and rate: colours, frames, limits."""

import io
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from videosdgx.media.prefix import read_image, read_video
from videosdgx.media.video import encode_mp4, encode_png

COLOURS = [(224, 36, 36), (5, 120, 125), (247, 247, 247), (112, 36, 143), (46, 77, 240), (10, 10, 10)]


def plain(colour: tuple[int, int, int], count: int = 4, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((count, height, width, 3), colour, np.uint8)


@pytest.mark.parametrize("size", [32, 48], ids=["same size", "scaled"])
def test_colours_stay_as_they_are_however_often_a_clip_is_continued(size: int) -> None:
    for colour in COLOURS:
        frames = plain(colour)
        for _ in range(3):
            frames = read_video(encode_mp4(frames, 24), size, size, 24, 4).frames
        # 8 bits in another colour space, three times.
        assert np.abs(frames.astype(int) - colour).max() <= 2, (colour, frames[0, 0, 0])


def test_rate_and_size_are_brought_to_those_asked_for_and_it_is_said() -> None:
    frames = np.concatenate([plain((8 * index, 0, 0), 1, 24, 40) for index in range(12)])
    read = read_video(encode_mp4(frames, 12), 32, 64, 24, 24)
    assert read.frames.shape == (24, 32, 64, 3)
    assert read.note == "video was 40x24 at 12 frames/s, it is resampled to 64x32 at 24 frames/s"
    assert np.all(np.diff(read.frames[:, 16, 32, 0].astype(int)) >= -1)
    assert read_video(encode_mp4(frames, 24), 24, 40, 24, 12).note == ""


def test_a_video_may_be_as_long_as_the_limit_and_no_longer() -> None:
    data = encode_mp4(plain((90, 90, 90), 10), 24)
    assert len(read_video(data, 32, 32, 24, 10).frames) == 10
    with pytest.raises(ValueError, match="is longer than the 9 frames at 24 frames/s that were asked for"):
        read_video(data, 32, 32, 24, 9)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_of_any_size_becomes_one_frame(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 20), (224, 36, 36)).save(buffer, kind, quality=95)
    read = read_image(buffer.getvalue(), 32, 48)
    assert read.frames.shape == (1, 32, 48, 3) and read.note == "image was 50x20, it is scaled to 48x32"
    assert np.abs(read.frames.astype(int) - (224, 36, 36)).max() <= 2


def test_absurd_sizes_are_refused_before_a_picture_is_decoded() -> None:
    header = bytearray(encode_png(plain((0, 0, 0))[0]))
    header[16:24] = (12_000).to_bytes(4) * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4)
    with pytest.raises(ValueError, match=r"is 12000x12000 pixels, at most 33177600 pixels are allowed"):
        read_image(bytes(header), 32, 32)


def test_sound_alone_is_no_video() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        silence.sample_rate = 44_100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="is no video that can be decoded: it holds no picture"):
        read_video(buffer.getvalue(), 32, 32, 24, 24)
