"""Files that grow while a clip is made, and what is shown meanwhile."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from rich.console import Console

from client.display import Lines
from client.errors import ClientError
from client.output import growing
from client.results import Chunk, Event
from videosdgx.media.fragments import FragmentEncoder


def chunks(count: int, of: int) -> list[Chunk]:
    encoder = FragmentEncoder(24)
    frames = np.zeros((24, 32, 32, 3), np.uint8)
    return [Chunk(number, of, encoder.encode(frames + number)) for number in range(1, count + 1)]


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_growing_file_plays_after_every_chunk_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"older" * 10_000)
    with growing(path, True) as file:
        assert file is not None
        for chunk in chunks(3, of=3):
            file(chunk)
            assert frames_in(path) == 24 * chunk.number


def test_what_is_there_stays_when_the_generation_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.mp4"
    with pytest.raises(KeyboardInterrupt), growing(path, True) as file:
        assert file is not None
        for chunk in chunks(2, of=5):
            file(chunk)
        raise KeyboardInterrupt
    assert frames_in(path) == 48
    assert capsys.readouterr().out == f"{path} holds the first 2 of 5 chunks and can be played\n"


@pytest.mark.parametrize("output", [None, Path("x.png")])
def test_a_growing_file_must_be_a_named_video(output: Path | None) -> None:
    with pytest.raises(ClientError, match="--play-while-generating needs --output"), growing(output, True):
        pass


def test_lines_tell_each_chunk_once_and_no_step_twice() -> None:
    text = io.StringIO()
    lines = Lines(Console(file=text, width=200))
    for step, phase in [(0, "sampling"), (5, "sampling"), (0, "decoding"), (0, "muxing"), (5, "chunk"), (5, "sampling")]:
        lines(Event("a", phase, step, 25, 1.0, "", chunk=1, chunks=2))
    assert [line.split("s  ")[1] for line in text.getvalue().splitlines()] == [
        "sampling step 0 of 25", "sampling step 5 of 25", "chunk 1 of 2 is finished",
    ]  # fmt: skip
