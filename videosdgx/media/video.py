"""Frames to files: H.264 MP4 that browsers play, and PNG for single frames."""

import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Colorspace

# The same frames must give the same file. x264's macroblock tree differs from run to run in its fastest kernels
# (seen with libx264 in PyAV 18.1), and its bytes depend on the number of threads.
ENCODER_THREADS = 4
X264_OPTIONS = {"crf": "16", "preset": "medium", "x264-params": "cpu-independent=1"}


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0,1], any float dtype, as uint8 in 0..255, rounded."""
    return np.rint(np.clip(frames, 0.0, 1.0) * 255.0).astype(np.uint8)


def encode_mp4(frames: np.ndarray, fps: int) -> bytes:
    """An MP4 file (H.264, yuv420p, BT.709, index in front) of uint8 frames [F,H,W,3] with even sides."""
    with tempfile.TemporaryDirectory() as folder:
        # Moving the index to the front reads the file again, so it cannot be written into memory.
        path = Path(folder) / "video.mp4"
        _write_mp4(path, frames, fps)
        return path.read_bytes()


def _write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = add_h264(container, frames.shape[1], frames.shape[2], fps)
        for array in frames:
            container.mux(stream.encode(to_yuv420(array)))
        container.mux(stream.encode())


def add_h264(container: Any, height: int, width: int, fps: int) -> Any:
    """A video stream in `container` as every file of ours has it: H.264, yuv420p, BT.709."""
    stream = container.add_stream("libx264", rate=fps, options=X264_OPTIONS)
    stream.height, stream.width = height, width
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = ENCODER_THREADS
    # 1 is BT.709 and 1 is the limited ("TV") range, in the numbering of H.273: players assume nothing.
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
    return stream


def to_yuv420(array: np.ndarray) -> Any:
    """A frame for the encoder from uint8 [H,W,3]."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)


def encode_png(frame: np.ndarray) -> bytes:
    """A PNG file of one uint8 frame [H,W,3]."""
    context = av.CodecContext.create("png", "w")
    context.height, context.width = frame.shape[:2]
    context.pix_fmt = "rgb24"
    context.framerate = 1
    packets = context.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
    packets += context.encode(None)
    return b"".join(bytes(packet) for packet in packets)
