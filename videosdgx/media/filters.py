"""ffmpeg's filters, for frames one by one and for frames in a row."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

# A filter's name and its arguments.
Filter = tuple[str, str]

# By default ffmpeg's scaler cuts fractions of colours off: a clip would become darker by one or two of 255 whenever it is
# continued.
SCALER = "bicubic+accurate_rnd+full_chroma_int"


def scale_to(height: int, width: int, more: str = "") -> Filter:
    """The filter that brings frames to a size, without keeping their aspect; `more` are further arguments of it."""
    return "scale", f"{width}:{height}:flags={SCALER}{more}"


def graph_of(frame: Any, *filters: Filter) -> Any:
    """Filters in a row, for frames such as `frame`."""
    graph = av.filter.Graph()
    time_base = frame.time_base or Fraction(1, 1000)
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    graph.link_nodes(source, *(graph.add(name, options) for name, options in filters), graph.add("buffersink")).configure()
    return graph


def ready(graph: Any) -> Iterator[Any]:
    """The frames that a graph has finished."""
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class OneByOne:
    """Filters frames, each on its own; they may change their size and colours on the way, as those of a video may."""

    def __init__(self) -> None:
        self._graphs: dict[Any, Any] = {}

    def __call__(self, frame: Any, *filters: Filter) -> np.ndarray:
        """What `filters`, the last of which chooses a format, make of a frame: uint8 [H,W,C]."""
        shape = (frame.width, frame.height, frame.format.name, frame.time_base)
        key = (shape, frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc, filters)
        if key not in self._graphs:
            self._graphs = {key: graph_of(frame, *filters)}  # a file that changes with every frame must not fill the memory
        graph = self._graphs[key]
        graph.vpush(frame)
        array: np.ndarray = graph.vpull().to_ndarray()
        return array


def scale(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames uint8 [F,H,W,3] brought to a size, as the frames of files are."""
    if frames.shape[1:3] == (height, width):
        return frames
    pictures = [av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24") for frame in frames]
    one = OneByOne()
    return np.stack([one(picture, scale_to(height, width), ("format", "rgb24")) for picture in pictures])
