"""A contact sheet shows every frame, in order, in its place."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.contact_sheet import CELL, GAP, MARGIN, TITLE, draw, read_clip
from videosdgx.media.video import encode_mp4

GRAYS = [20 * index for index in range(11)]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    frames = np.stack([np.full((32, 64, 3), gray, np.uint8) for gray in GRAYS])
    path = tmp_path / "gray.mp4"
    path.write_bytes(encode_mp4(frames, 8))
    return path


def test_frames_times_and_title_are_read(video: Path) -> None:
    clip = read_clip(video)
    assert clip.title == "gray.mp4" and clip.frames.shape == (11, 32, 64, 3)
    assert clip.seconds == pytest.approx([index / 8 for index in range(11)], abs=1e-3)


def test_a_long_clip_is_shown_by_frames_evenly_spaced(video: Path) -> None:
    clip = read_clip(video, most=6)
    assert clip.numbers == (1, 3, 5, 7, 9, 11) and clip.frames.shape[0] == 6
    assert [abs(int(frame.mean()) - 20 * (number - 1)) <= 3 for frame, number in zip(clip.frames, clip.numbers, strict=True)]


def test_each_frame_is_in_its_place(video: Path) -> None:
    sheet = np.asarray(draw([read_clip(video, "a title")], columns=9))
    for index, gray in enumerate(GRAYS):
        row, column = divmod(index, 9)
        x = MARGIN + column * (CELL + GAP) + CELL // 2
        y = MARGIN + TITLE + row * (CELL // 2 + 16 + GAP) + CELL // 4
        assert abs(int(sheet[y, x].mean()) - gray) <= 3
    assert (sheet[MARGIN : MARGIN + TITLE, :60] < 128).any(), "the title is missing"


def test_command(video: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "client.contact_sheet", str(video), str(video), "-o", str(output), "--title", "x"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{output}\n"
    assert Image.open(output).format == "PNG"


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_what_is_no_video_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    if content is not None:
        path.write_bytes(content)
    command = [sys.executable, "-m", "client.contact_sheet", str(path), "-o", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "broken.mp4" in done.stderr and "Traceback" not in done.stderr
