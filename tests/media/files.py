"""Small files of the kinds that cameras and programs make, written byte by byte where no library would write them."""

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types: gray, RGB, palette, gray and alpha, RGB and alpha
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    samples: np.ndarray, colour: int, depth: int, before: Sequence[tuple[bytes, bytes]] = (), interlaced: bool = False
) -> bytes:
    """A PNG of samples [H,W,C]; `before` are the chunks in front of the picture's data."""
    height, width = samples.shape[:2]
    passes = [samples[y::down, x::right] for x, y, right, down in ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + packed(row, depth) for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def packed(row: np.ndarray, depth: int) -> bytes:
    bits = (row.reshape(-1, 1).astype(np.int64) >> np.arange(depth)[::-1]) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()


def quarters(height: int = 64, width: int = 96) -> np.ndarray:
    """A picture that is another one however it is turned: red, green / blue, white."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2, 0] = picture[: height // 2, width // 2 :, 1] = 255
    picture[height // 2 :, : width // 2, 2] = 255
    picture[height // 2 :, width // 2 :] = 255
    return picture


def numbered(count: int) -> list[Any]:
    """Frames [64,64] that are brighter one by one."""
    return [av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * index, np.uint8), format="rgb24") for index in range(count)]


def video(frames: Sequence[Any], kind: str = "mp4", codec: str = "libx264", pix_fmt: str = "yuv420p", **more: Any) -> bytes:
    """A video file.

    Args:
        frames: of PyAV; those without a time follow each other.
        kind: of container.
        more: attributes of the codec context; `rate`, `options`, `container`, `times` (each frame's, in units of `time_base`)
            and `shift` (added to all of a packet's times); `prepare` gets the stream.
    """
    buffer = io.BytesIO()
    rate, times, shift = more.pop("rate", 24), more.pop("times", None), more.pop("shift", 0)
    prepare = more.pop("prepare", lambda stream: None)
    options = {"crf": "1"} if codec == "libx264" else {}
    time_base = more.pop("time_base", Fraction(1, rate))
    with av.open(buffer, "w", format=kind, options=more.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=rate, options={**options, **more.pop("options", {})})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        for name, value in more.items():
            setattr(stream.codec_context, name, value)
        prepare(stream)
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index if times is None else times[index], time_base
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                if shift:
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                container.mux(packet)
    return buffer.getvalue()
