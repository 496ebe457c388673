"""Images and videos that a clip starts from: files of any size and rate become frames of the size and rate asked for.

Frames are scaled to the size without keeping the aspect ratio, with ffmpeg's own `fps` and `scale` filters, as the
official MAGI-1 code has ffmpeg do it (docs/specs/magi1.md, section 10.2), but with exact colours. Messages of errors begin with
"is" or "has": the caller puts the name of the input in front.
"""

from dataclasses import dataclass

import numpy as np

from videosdgx.media.clips import Clip
from videosdgx.media.filters import scale
from videosdgx.media.pictures import BLACK, read_picture


@dataclass(frozen=True)
class Prefix:
    """Frames uint8 [F,H,W,3] at the size and rate of the clip, and what was done to them ("" if nothing)."""

    frames: np.ndarray
    note: str


def read_image(data: bytes, height: int, width: int, background: str = BLACK) -> Prefix:
    """One frame from a PNG or JPEG file, on `background` where it is transparent.

    Raises:
        ValueError: it is none, is damaged, or is too large.
    """
    picture, notes = read_picture(data, background)
    size = picture.shape[:2]
    if size != (height, width):
        notes.insert(0, f"image was {size[1]}x{size[0]}, it is scaled to {width}x{height}")
    return Prefix(scale(picture[None], height, width), "; ".join(notes))


def read_video(data: bytes, height: int, width: int, fps: int, most: int, background: str = BLACK) -> Prefix:
    """The frames of a video file, at most `most`, on `background` where they are transparent.

    Raises:
        ValueError: it is no video, is damaged, is too large, or has more than `most` frames at `fps`.
    """
    clip, frames = Clip(data, background), []
    for frame in clip.frames(height, width, fps):
        frames.append(frame)
        # What the file says of its length spares decoding much of one that is far too long.
        if len(frames) > most or (clip.seconds or 0) * fps > most + 2 * fps:
            raise ValueError(f"is longer than the {most} frames at {fps} frames/s that were asked for")
    notes = list(clip.notes)
    if clip.size != (width, height) or clip.rate != fps:
        was = f"video was {clip.size[0]}x{clip.size[1]} at {float(clip.rate or 0):g} frames/s"
        notes.insert(0, f"{was}, it is resampled to {width}x{height} at {fps} frames/s")
    return Prefix(np.stack(frames), "; ".join(notes))
