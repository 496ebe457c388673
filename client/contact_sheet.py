"""The frames of videos side by side in one picture, so that motion can be seen at a glance.

python -m client.contact_sheet outputs/wan21.mp4 -o outputs/wan21.png --title "a red circle moving right"
"""

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videosdgx.artifacts import write_atomically

CELL = 112  # width of a frame in the picture, in pixels
GAP = 6
LABEL = 16
TITLE = 24
MARGIN = 12
COLUMNS = 9
MOST = 27  # frames of one clip
PAPER, INK, FAINT = "white", "black", "dimgray"


@dataclass(frozen=True)
class Clip:
    """Frames [F,H,W,3] uint8, for each its number in the video (from 1) and the seconds at which it is shown, a title."""

    title: str
    frames: np.ndarray
    seconds: tuple[float, ...]
    numbers: tuple[int, ...]


def read_clip(path: Path, title: str = "", most: int = MOST) -> Clip:
    """Decode a video file; of a long one keep `most` frames at most, evenly spaced, the first and the last among them.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no video that can be decoded.
    """
    try:
        with av.open(str(path)) as container:
            decoded = [(frame.to_ndarray(format="rgb24"), float(frame.time or 0.0)) for frame in container.decode(video=0)]
    except (av.error.InvalidDataError, IndexError) as error:
        raise ValueError(f"{path} holds no video: {error}") from None
    if not decoded:
        raise ValueError(f"{path} holds no frame")
    chosen = np.unique(np.rint(np.linspace(0, len(decoded) - 1, min(most, len(decoded)))).astype(int)).tolist()
    frames, times = zip(*(decoded[index] for index in chosen), strict=True)
    # Decoders let a file of fragments begin a little later than it is shown.
    seconds = tuple(time - times[0] for time in times)
    return Clip(title or path.name, np.stack(frames), seconds, tuple(index + 1 for index in chosen))


def draw(clips: Sequence[Clip], columns: int = COLUMNS) -> Image.Image:
    """The frames of all clips in rows of `columns`, each with its number and time, each clip with its title."""
    heights = [_clip_height(clip, columns) for clip in clips]
    widest = max(min(columns, len(clip.frames)) for clip in clips)
    # A title must fit even above a single frame.
    width = max(2 * MARGIN + widest * (CELL + GAP) - GAP, *(2 * MARGIN + 8 * len(clip.title) for clip in clips))
    sheet = Image.new("RGB", (width, 2 * MARGIN + sum(heights) - GAP), PAPER)
    top = MARGIN
    for clip, height in zip(clips, heights, strict=True):
        _draw_clip(sheet, clip, top, columns)
        top += height
    return sheet


def _cell_height(clip: Clip) -> int:
    return round(CELL * clip.frames.shape[1] / clip.frames.shape[2])


def _clip_height(clip: Clip, columns: int) -> int:
    rows = -(-len(clip.frames) // columns)
    return TITLE + rows * (_cell_height(clip) + LABEL + GAP)


def _draw_clip(sheet: Image.Image, clip: Clip, top: int, columns: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, top), clip.title, fill=INK, font=ImageFont.load_default(15))
    cell = (CELL, _cell_height(clip))
    for place, (frame, seconds, number) in enumerate(zip(clip.frames, clip.seconds, clip.numbers, strict=True)):
        row, column = divmod(place, columns)
        x = MARGIN + column * (CELL + GAP)
        y = top + TITLE + row * (cell[1] + LABEL + GAP)
        sheet.paste(Image.fromarray(frame).resize(cell, Image.Resampling.BICUBIC), (x, y))
        pen.text((x, y + cell[1] + 1), f"{number}  {seconds:.2f} s", fill=FAINT, font=ImageFont.load_default(11))


def save(sheet: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Put the frames of videos into one picture.")
    parser.add_argument("videos", nargs="+", type=Path, help="MP4 files, one group of rows each")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the PNG to write")
    parser.add_argument("--title", action="append", default=[], help="of the first, second, ... video; default: its name")
    parser.add_argument("--most", type=int, default=MOST, help="frames of one video, evenly spaced")
    parser.add_argument("--columns", type=int, default=COLUMNS, help="frames in a row")
    wanted = parser.parse_args()
    titles = [*wanted.title, *[""] * len(wanted.videos)]
    try:
        clips = [read_clip(video, title, wanted.most) for video, title in zip(wanted.videos, titles, strict=False)]
        save(draw(clips, wanted.columns), wanted.output)
    except (OSError, ValueError) as error:
        parser.exit(1, f"contact_sheet: {error}\n")
    print(wanted.output)


if __name__ == "__main__":
    main()
