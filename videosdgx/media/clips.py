"""Frames of video files as a player shows them: those and only those, in time, upright, with a background.

Messages of errors begin with "is" or "has": the caller puts the name of the input in front.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from videosdgx.media.filters import Filter, OneByOne, graph_of, ready, scale_to
from videosdgx.media.kinds import kind
from videosdgx.media.pictures import BLACK, MOST_PIXELS, check_size, flattened

# Containers of video. What is left out are lists of other files and addresses, which a server must not follow, and pictures.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,av1,vc1,flv,asf,ogg,gif,apng,"
    "mjpeg,yuv4mpegpipe,nut,mxf,dv,rm"
)
# ITU-T H.273's numbers of the two ways of storing more brightness than ordinary screens have: PQ and HLG.
_HDR = (16, 18)
# Decoders beside ffmpeg's own, which do not see the transparency of these.
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class _NoVideo(Exception):
    """A file that can be read, but has no video; the message says why."""


class Clip:
    """A video file that is read once.

    Attributes:
        size: width and height in pixels as they are shown, known after the first frame.
        rate: frames/s on average, None if nothing says it.
        notes: what was done to the frames, in words, complete after the last one.
    """

    def __init__(self, data: bytes, background: str = BLACK):
        self._data, self._background = data, background
        self.size: tuple[int, int] = (0, 0)
        self.rate: Fraction | None = None
        self.seconds: float | None = None
        self.notes: dict[str, None] = {}
        self._filtered = OneByOne()

    def frames(self, height: int, width: int, fps: int) -> Iterator[np.ndarray]:
        """Frames uint8 [height,width,3] at `fps` frames/s.

        Raises:
            ValueError: it is no video, is damaged, or is too large.
        """
        try:
            # ffmpeg's `fps` filter copies frames or leaves some out, by their times.
            graph: Any = None
            for frame in self._decoded():
                if graph is None:
                    graph = graph_of(frame, ("fps", str(fps)))
                graph.vpush(frame)
                for timed in ready(graph):
                    yield self._picture(timed, height, width)
            if graph is None:
                raise _NoVideo("it holds no frame")
            graph.vpush(None)
            for timed in ready(graph):
                yield self._picture(timed, height, width)
            if self.size == (0, 0):
                raise _NoVideo("it holds no frame")
        except (av.error.FFmpegError, _NoVideo) as error:
            raise ValueError(f"is no video that can be decoded: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        what = kind(self._data)
        if what.endswith(("PNG image", "JPEG image")):
            return f"it is {what}, give it as image"
        if what and not what.endswith("video"):
            return f"it is {what}"
        if isinstance(error, av.error.ArgumentError):  # ffmpeg's answer to a file of a kind that it was not allowed
            return "it is of no kind that is known"
        return str(getattr(error, "strerror", None) or error)

    def _decoded(self) -> Iterator[Any]:
        """The frames that are shown, as they are stored."""
        what = kind(self._data)
        if what.endswith("image") and "animated" not in what:
            raise _NoVideo(what)
        with av.open(io.BytesIO(self._data), options={"format_whitelist": CONTAINERS}, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
                raise _NoVideo("it holds no picture")
            if stream.codec_context is None:
                raise _NoVideo("its codec is not known")
            check_size(stream.codec_context.width, stream.codec_context.height)
            self.rate = stream.average_rate or stream.guessed_rate
            if stream.duration and stream.time_base:
                self.seconds = float(stream.duration * stream.time_base)
            decoder = _decoder(stream)
            # Without it the decoder conceals what is missing, and a damaged file gives gray frames. H.264 has no checksums:
            # damage in the middle of a picture's data may still decode to some picture.
            decoder.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
            self._check_whole(container, stream)
            count = 0
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError("is cut short or damaged: a frame is not all there")
                for frame in decoder.decode(packet if packet.size else None):
                    check_size(frame.width, frame.height)
                    if frame.pts is None:  # a bare stream of frames, which has no times
                        self.rate = stream.guessed_rate or self.rate or Fraction(25)
                        frame.time_base, frame.pts, frame.duration = 1 / self.rate, count, 1
                    else:  # PyAV leaves it out of the last frames, which come when there are no more packets
                        frame.time_base = stream.time_base
                    count += 1
                    yield frame
            self._check_whole(container, stream)  # an index in fragments is known only now

    def _check_whole(self, container: Any, stream: Any) -> None:
        """Refuse a file whose end is missing, of the containers that tell where their end is.

        How many frames there are says little: an edit list may hide some.
        """
        size = len(self._data)
        ends = [_announced_size(self._data)]
        if "mov" in container.format.name:
            ends += [entry.pos + entry.size for entry in stream.index_entries]
        if max(ends) > size:
            of = f"{stream.frames} frames" if stream.frames else f"{max(ends)} bytes"
            raise ValueError(f"is cut short: it tells of {of}, not all are there")

    def _picture(self, frame: Any, height: int, width: int) -> np.ndarray:
        """Uint8 [height,width,3] of a frame as it is shown."""
        turns = _upright(frame)
        sideways = any(name == "transpose" for name, _ in turns)
        size = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        self.size = self.size if self.size[0] else size
        if frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components):
            image = Image.fromarray(self._filtered(frame, *turns, ("format", "rgba")), "RGBA")
            array, transparent = flattened(image, self._background)
            if transparent:
                self.notes[f"video is transparent in parts, it is laid on {self._background}"] = None
            frame, turns = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24"), []
        brighter = frame.color_trc in _HDR
        if brighter:
            self.notes["video has a high dynamic range, its colours are brought to those of ordinary screens"] = None
        scaled = scale_to(height, width, ":out_transfer=bt709:out_primaries=bt709" if brighter else "")
        return self._filtered(frame, *turns, scaled, ("format", "rgb24"))


def _decoder(stream: Any) -> Any:
    """What decodes a stream, transparency included."""
    name = _WITH_ALPHA.get(stream.codec_context.name)
    if name is None or {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") != "1":
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _upright(frame: Any) -> list[Filter]:
    """The filters that turn and flip a frame as its display matrix says (ISO/IEC 14496-12, 6.2.2).

    Raises:
        ValueError: it turns by something else than quarters.
    """
    matrix = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    if matrix is None:
        return []
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if not a and not d and b and c:
        turned, right, down = [("transpose", "cclock_flip")], c, b  # ffmpeg's name of rows that become columns
    elif not b and not c and a and d:
        turned, right, down = [], a, d
    else:
        raise ValueError("is turned by an angle, only quarter turns are possible")
    return turned + [("hflip", "")] * (right < 0) + [("vflip", "")] * (down < 0)


def _announced_size(data: bytes) -> int:
    """The size in bytes that an AVI or a Matroska file says that it has; 0 if it says none, or is another one."""
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        return size + 8 if size < 2**32 - 1 else 0
    if data[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    end, head = _element(data, 4)
    segment = end + (head or 0)
    if data[segment : segment + 4] != b"\x18\x53\x80\x67":
        return 0
    end, content = _element(data, segment + 4)
    return 0 if content is None else end + content


def _element(data: bytes, at: int) -> tuple[int, int | None]:
    """Where the content of a Matroska element begins whose size is at `at`, and that size (RFC 8794, section 4)."""
    length = 9 - int.from_bytes(data[at : at + 1]).bit_length()
    size = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
    return at + length, None if size == (1 << 7 * length) - 1 else size
