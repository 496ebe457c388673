"""Files from frames: what players read in them, and that the same frames give the same bytes."""

import io
import threading

import av
import numpy as np

from videosdgx.media.video import encode_mp4, encode_png, to_uint8


def moving_square() -> np.ndarray:
    frames = np.full((9, 64, 96, 3), 0.5)
    for i, frame in enumerate(frames):
        frame[20:40, 10 + 4 * i : 30 + 4 * i] = [0.9, 0.1, 0.1]
    return to_uint8(frames + np.random.default_rng(0).normal(0, 0.02, frames.shape))


def test_mp4_decodes_to_nearly_the_same_frames_with_its_colours_declared() -> None:
    frames = moving_square()
    with av.open(io.BytesIO(encode_mp4(frames, fps=12))) as container:
        stream = container.streams.video[0]
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 12)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    error = decoded.astype(float) - frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 30
    inside = (slice(None), slice(24, 36), slice(44, 46))  # inside the square in every frame that it covers
    assert np.abs(decoded[4][inside[1:]].mean((0, 1)) - frames[4][inside[1:]].mean((0, 1))).max() < 6


def test_the_same_frames_give_the_same_bytes_in_any_thread() -> None:
    frames, files = moving_square(), []
    for _ in range(12):
        worker = threading.Thread(target=lambda: files.append(encode_mp4(frames.copy(), fps=8)))
        worker.start()
        worker.join()
    assert len(set(files)) == 1


def test_png_is_lossless() -> None:
    frame = moving_square()[0]
    with av.open(io.BytesIO(encode_png(frame))) as container:
        assert np.array_equal(next(container.decode(video=0)).to_ndarray(format="rgb24"), frame)


def test_values_beyond_the_range_are_clipped_and_the_rest_is_rounded() -> None:
    assert to_uint8(np.array([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0])).tolist() == [0, 0, 0, 1, 255, 255]
