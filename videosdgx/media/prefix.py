"""Images and videos that a clip starts from: files of any size and rate become frames of the size and rate asked for.

Frames are scaled to the size without keeping the aspect ratio, with ffmpeg's own `fps` and `scale` filters, as the
official MAGI-1 code has ffmpeg do it (docs/specs/magi1.md, section 10.2), but with exact colours. Messages of errors begin with
"is" or "has": the caller puts the name of the input in front.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# 8K in both directions; beyond it a small file can ask for all the memory there is.
MOST_PIXELS = 7680 * 4320
# By default ffmpeg's scaler cuts fractions of colours off: a clip would become darker by one or two of 255 whenever it is
# continued.
SCALER = "bicubic+accurate_rnd+full_chroma_int"


@dataclass(frozen=True)
class Prefix:
    """Frames uint8 [F,H,W,3] at the size and rate of the clip, and what was done to them ("" if nothing)."""

    frames: np.ndarray
    note: str


def read_image(data: bytes, height: int, width: int) -> Prefix:
    """One frame from a PNG or JPEG file.

    Raises:
        ValueError: it is none, is damaged, or is too large.
    """
    if not data.startswith(SIGNATURES):
        raise ValueError("is neither a PNG nor a JPEG image")
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            source = _check_size(stream)
            frame = next(container.decode(stream))
            (array,) = _filtered([frame], stream, height, width, None)
    except (av.error.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"is a damaged image: {_reason(error)}") from None
    note = "" if source == (width, height) else f"image was {source[0]}x{source[1]}, it is scaled to {width}x{height}"
    return Prefix(array[None], note)


def read_video(data: bytes, height: int, width: int, fps: int, most: int) -> Prefix:
    """The frames of a video file, at most `most`.

    Raises:
        ValueError: it is no video, is damaged, is too large, or has more than `most` frames at `fps`.
    """
    frames = []
    try:
        with av.open(io.BytesIO(data)) as container:
            stream = container.streams.video[0]
            source = _check_size(stream)
            rate = stream.average_rate
            if stream.frames and rate and stream.frames / rate * fps > most + 1:
                raise ValueError(_too_long(most, fps))
            # Without it the decoder conceals what is missing, and a damaged file gives gray frames. H.264 has no checksums:
            # damage in the middle of a picture's data may still decode to some picture.
            stream.codec_context.options = {"err_detect": "explode"}
            for array in _filtered(container.decode(stream), stream, height, width, fps):
                frames.append(array)
                if len(frames) > most:
                    raise ValueError(_too_long(most, fps))
            if stream.frames and rate and len(frames) < round(stream.frames / rate * fps) - 1:
                raise ValueError(f"is cut short: it tells of {stream.frames} frames, not all are there")
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"is no video that can be decoded: {_reason(error)}") from None
    if not frames:
        raise ValueError("is no video that can be decoded: it holds no frame")
    same = source == (width, height) and rate == fps
    was = f"video was {source[0]}x{source[1]} at {float(rate or 0):g} frames/s"
    return Prefix(np.stack(frames), "" if same else f"{was}, it is resampled to {width}x{height} at {fps} frames/s")


def _too_long(most: int, fps: int) -> str:
    return f"is longer than the {most} frames at {fps} frames/s that were asked for"


def _check_size(stream: Any) -> tuple[int, int]:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MOST_PIXELS:
        raise ValueError(f"is {width}x{height} pixels, at most {MOST_PIXELS} pixels are allowed")
    return width, height


def _filtered(frames: Any, stream: Any, height: int, width: int, fps: int | None) -> Iterator[np.ndarray]:
    """Frames uint8 [H,W,3] as ffmpeg's filters give them."""
    graph = av.filter.Graph()
    nodes = [graph.add_buffer(template=stream)]
    if fps is not None:
        nodes.append(graph.add("fps", str(fps)))
    nodes += [graph.add("scale", f"{width}:{height}:flags={SCALER}"), graph.add("format", "rgb24"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    for frame in frames:
        graph.vpush(frame)
        yield from _ready(graph)
    graph.vpush(None)
    yield from _ready(graph)


def _ready(graph: Any) -> Iterator[np.ndarray]:
    while True:
        try:
            yield graph.vpull().to_ndarray()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", "") or "it holds no picture"


def scale(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames uint8 [F,H,W,3] brought to a size as the files are, by ffmpeg's scaler."""
    if frames.shape[1:3] == (height, width):
        return frames
    pictures = (av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames)
    return np.stack([picture.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray() for picture in pictures])
