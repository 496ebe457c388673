"""Video that plays while it grows: MP4 in fragments (ISO/IEC 14496-12, movie fragments), one for each chunk of frames.

Each chunk is encoded on its own, from a keyframe on, so nothing of it waits in the encoder for the next one and memory
does not grow with the video. The first fragment begins with the header that players need; all of them in a row are a
valid MP4, and so is every beginning that ends with a fragment. `whole_mp4` makes the ordinary kind of file of them.
"""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from videosdgx.media.video import add_h264, to_yuv420

# One moof box per chunk; times go on from those of the chunk before, and with B-frames the first one is shown at once.
MOVFLAGS = "+empty_moov+default_base_moof+frag_discont+negative_cts_offsets+skip_trailer"


class _Sink:
    """A file that can only be written to: the muxer must not go back to what has been sent already."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


class FragmentEncoder:
    """Encodes chunks of one video, in their order. The same chunks give the same bytes, with the settings of `encode_mp4`."""

    def __init__(self, fps: int):
        self._fps = fps
        self._fragments = 0
        self._frames = 0

    def encode(self, frames: np.ndarray) -> bytes:
        """The next fragment: uint8 frames [F,H,W,3] with even sides, F >= 1, of the same size each time."""
        self._fragments += 1
        sink = _Sink()
        options = {"movflags": MOVFLAGS, "fragment_index": str(self._fragments), "avoid_negative_ts": "disabled"}
        with av.open(sink, "w", format="mp4", options=options) as container:
            stream = add_h264(container, frames.shape[1], frames.shape[2], self._fps)
            for number, array in enumerate(frames):
                frame = to_yuv420(array)
                frame.pts = self._frames + number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        self._frames += len(frames)
        data = bytes(sink.data)
        return data if self._fragments == 1 else data[_header_size(data) :]


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each box at the top of a file."""
    start = 0
    while start < len(data):
        end = start + int.from_bytes(data[start : start + 4])
        yield data[start + 4 : start + 8], start, end
        start = end


def _header_size(data: bytes) -> int:
    return next(start for kind, start, _ in _boxes(data) if kind == b"moof")


def whole_mp4(fragments: bytes) -> bytes:
    """The ordinary file with the frames of `fragments` (all of a video, in a row): an index in front, nothing encoded again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        options = {"movflags": "+faststart"}
        with av.open(io.BytesIO(fragments)) as source, av.open(str(path), "w", format="mp4", options=options) as container:
            packets = [packet for packet in source.demux(video=0) if packet.size]
            first = min(packet.pts for packet in packets)
            stream = container.add_stream_from_template(source.streams.video[0])
            for packet in packets:
                packet.stream = stream
                packet.pts, packet.dts = packet.pts - first, packet.dts - first
                container.mux(packet)
        return path.read_bytes()
