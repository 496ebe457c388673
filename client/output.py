"""Where a generation's file goes, checked before the work begins."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.errors import ClientError
from client.results import Chunk

FORMATS = {".mp4": "mp4", ".png": "png"}


def format_of(output: Path | None) -> str:
    """`mp4` or `png`, from the file's ending; `mp4` without a file.

    Raises:
        ClientError: another ending.
    """
    if output is None:
        return "mp4"
    if output.suffix.lower() not in FORMATS:
        raise ClientError(f"the output {output} must end in {' or '.join(FORMATS)}")
    return FORMATS[output.suffix.lower()]


def check_output(output: Path | None) -> None:
    """Refuse a place that cannot be written to.

    Raises:
        ClientError: the folder is missing or not writable, or the output is a folder itself.
    """
    folder = output.parent if output else Path()
    if not folder.is_dir():
        raise ClientError(f"the folder {folder} does not exist, make it first")
    if not os.access(folder, os.W_OK):
        raise ClientError(f"the folder {folder.resolve()} is not writable")
    if output is not None and output.is_dir():
        raise ClientError(f"the output {output} is a folder, give the name of a file")


class GrowingFile:
    """A file that chunks are written into as they come: it can be played at any time, up to the last chunk written."""

    def __init__(self, path: Path):
        self.path = path
        self.written = self.chunks = 0

    def __call__(self, chunk: Chunk) -> None:
        """Append a chunk; the first one replaces what was there."""
        with self.path.open("ab" if self.written else "wb") as file:
            file.write(chunk.data)
        self.written, self.chunks = chunk.number, chunk.chunks

    def __str__(self) -> str:
        """Such as `x.mp4 holds the first 2 of 5 chunks and can be played`."""
        return f"{self.path} holds the first {self.written} of {self.chunks} chunks and can be played"


@contextmanager
def growing(output: Path | None, wanted: bool) -> Iterator[GrowingFile | None]:
    """Check the output; if wanted, yield what writes chunks into it, and if only some of them came, say so.

    Raises:
        ClientError: the output cannot be written to, or is not named although it is to grow, or is no video.
    """
    check_output(output)
    if not wanted:
        yield None
        return
    if output is None or format_of(output) != "mp4":
        raise ClientError("--play-while-generating needs --output with the name of an .mp4 file")
    file = GrowingFile(output)
    try:
        yield file
    except BaseException:
        if file.written:
            print(file)
        raise
