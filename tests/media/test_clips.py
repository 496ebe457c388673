"""Videos as a player shows them. What is right is told by standards, by how a file was made, or by ffmpeg's own program."""

import io
import shutil
import struct
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.media.files import chunk, numbered, quarters, saved, video
from videosdgx.media.prefix import read_video

FFMPEG = shutil.which("ffmpeg")
ONE = 1 << 16  # of a display matrix


def read(data: bytes, most: int = 200, **more: Any) -> Any:
    return read_video(data, 64, 64, 24, most, **more)


def levels(frames: np.ndarray) -> list[int]:
    """Which of the `numbered` frames these are."""
    return np.rint(frames.mean((1, 2, 3)) / 4).astype(int).tolist()


def turned(data: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """An MP4 whose track is shown as that matrix says (ISO/IEC 14496-12, 8.3.2: x' = ax + cy, y' = bx + dy)."""
    at = data.index(b"tkhd") + 44
    return data[:at] + struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30) + data[at + 36 :]


MATRICES = {
    "as it is": (1, 0, 0, 1),
    "a quarter to the right": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "a quarter to the left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "rows to columns": (0, 1, 1, 0),
    "rows to columns, turned": (0, -1, -1, 0),
}
SEEN = {
    "as it is": "rg/bw", "a quarter to the right": "br/wg", "half": "wb/gr", "a quarter to the left": "gw/rb",
    "mirrored": "gr/wb", "upside down": "bw/rg", "rows to columns": "rb/gw", "rows to columns, turned": "wg/br",
}  # fmt: skip
NAMES = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 255): "w"}


def corners(frame: np.ndarray) -> str:
    height, width = frame.shape[:2]
    rows = [[frame[y, x] for x in (width // 4, 3 * width // 4)] for y in (height // 4, 3 * height // 4)]
    return "/".join("".join(NAMES[tuple(np.where(pixel > 127, 255, 0).tolist())] for pixel in row) for row in rows)


@pytest.mark.parametrize("name", MATRICES)
def test_a_video_is_turned_and_mirrored_as_its_matrix_says(name: str, tmp_path: Path) -> None:
    frames = [av.VideoFrame.from_ndarray(quarters(), format="rgb24") for _ in range(3)]
    data = turned(video(frames), *MATRICES[name])
    prefix = read_video(data, 50, 70, 24, 10)
    assert prefix.frames.shape == (3, 50, 70, 3) and corners(prefix.frames[1]) == SEEN[name]
    assert ("was 64x96" if MATRICES[name][1] else "was 96x64") in prefix.note
    if FFMPEG:
        (tmp_path / "turned.mp4").write_bytes(data)
        scale = "scale=70:50:flags=bicubic+accurate_rnd+full_chroma_int"
        command = [
            FFMPEG,
            "-v",
            "error",
            "-i",
            str(tmp_path / "turned.mp4"),
            "-vf",
            scale,
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]
        shown = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(-1, 50, 70, 3)
        assert np.abs(prefix.frames.astype(int) - shown).max() <= 1


def test_other_angles_are_refused() -> None:
    data = bytearray(turned(video(numbered(3)), 1, 1, -1, 1))
    with pytest.raises(ValueError, match="is turned by an angle, only quarter turns are possible"):
        read(bytes(data))


@pytest.mark.parametrize("kind", ["mp4", "mov"])
def test_what_an_edit_list_hides_is_not_shown(kind: str) -> None:
    """As `ffmpeg -ss 1 -c copy` cuts: the frames from the last keyframe on stay in the file, before the time of the cut."""
    data = video(numbered(48), kind, options={"g": "48", "bf": "2"}, shift=-24, container={"avoid_negative_ts": "disabled"})
    assert len([packet for packet in av.open(io.BytesIO(data)).demux(video=0) if packet.size]) == 48
    assert levels(read(data, 24).frames) == list(range(24, 48))


@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska", "webm", "avi", "mpegts", "flv"])
def test_every_frame_is_there_whatever_holds_it(kind: str) -> None:
    codec = {"webm": "libvpx-vp9"}.get(kind, "libx264")
    data = video(numbered(30), kind, codec, max_b_frames=0 if kind == "avi" else 2)
    assert levels(read(data).frames) == list(range(30))


def test_a_bare_stream_of_frames_has_its_own_rate() -> None:
    assert levels(read(video(numbered(30), "h264", max_b_frames=2)).frames) == list(range(30))


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize("part", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    ("kind", "container"),
    [("mp4", {"movflags": "faststart"}), ("mp4", FRAGMENTED), ("mp4", {}), ("matroska", {}), ("webm", {}), ("avi", {})],
    ids=["index in front", "fragments", "index behind", "matroska", "webm", "avi"],
)
def test_a_file_that_is_cut_is_refused(kind: str, container: dict[str, str], part: float, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [av.VideoFrame.from_ndarray(random.integers(0, 255, (64, 64, 3), np.uint8), format="rgb24") for _ in range(30)]
    if container.get("movflags") == "faststart":  # needs a file that can be read again
        data = video(frames, kind, options={"g": "1"})
        path = tmp_path / "front.mp4"
        with av.open(io.BytesIO(data)) as source, av.open(str(path), "w", options=container) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        data = path.read_bytes()
    else:
        codec = "libvpx-vp9" if kind == "webm" else "libx264"
        data = video(frames, kind, codec, container=container, options={"g": "1"} if codec == "libx264" else {})
    assert len(read(data).frames) == 30
    with pytest.raises(ValueError, match=r"^is (cut short|no video that can be decoded)"):
        read(data[: int(len(data) * part)])


def test_frames_at_their_own_times() -> None:
    """Variable rate: each frame is shown until the next one."""
    data = video(numbered(4), times=[0, 1, 5, 6], max_b_frames=0)
    assert levels(read(data).frames)[:7] == [0, 1, 1, 1, 1, 2, 3]


def test_a_thousand_frames_a_second() -> None:
    data = video(numbered(48), rate=1000)
    prefix = read(data)
    assert len(prefix.frames) == 1 and "at 1000 frames/s" in prefix.note
    assert len(read_video(data, 64, 64, 60, 9).frames) == 3


def test_odd_sizes_and_pixels_that_are_not_square() -> None:
    frames = [av.VideoFrame.from_ndarray(np.full((33, 47, 3), (200, 30, 90), np.uint8), format="rgb24") for _ in range(3)]
    read_back = read(video(frames, pix_fmt="yuv444p", sample_aspect_ratio=Fraction(4, 3)))
    assert np.abs(read_back.frames.astype(int) - (200, 30, 90)).max() <= 2 and "was 47x33" in read_back.note


# What red is in each kind of YUV (ITU-R BT.601 and BT.709, rounded), limited and full range.
RED = {("601", 1): (81, 90, 240), ("601", 2): (76, 85, 255), ("709", 1): (63, 102, 240), ("709", 2): (54, 99, 255)}


@pytest.mark.parametrize(("matrix", "span"), RED)
def test_colours_are_those_that_the_file_says(matrix: str, span: int) -> None:
    frames = []
    for _ in range(3):
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, value in zip(frame.planes, RED[matrix, span], strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.colorspace, frame.color_range = {"601": 6, "709": 1}[matrix], span
        frames.append(frame)
    number = {"601": 6, "709": 1}[matrix]
    data = video(frames, colorspace=number, color_primaries=number, color_trc=number, color_range=span)
    assert np.abs(read(data).frames.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58), (18, 0.75)], ids=["PQ", "HLG"])
def test_white_of_high_dynamic_range_is_white(transfer: int, white: float) -> None:
    """White of a sheet of paper, 203 cd/m2, has these levels (ITU-R BT.2408)."""
    frames = []
    for level in (0.0, white):
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for plane, value in zip(frame.planes, (round(64 + 876 * level), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = 9, 1, 9, transfer
        frames.append(frame)
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer, "color_range": 1}
    prefix = read(video(frames, pix_fmt="yuv420p10le", **tags))
    assert len(prefix.frames) == 2 and prefix.frames[0].max() <= 2 and prefix.frames[1].min() >= 250
    assert prefix.note.endswith("video has a high dynamic range, its colours are brought to those of ordinary screens")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_few_frames_of_a_short_video(count: int) -> None:
    for kind, codec in (("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")):
        assert levels(read(video(numbered(count), kind, codec)).frames) == list(range(count)), kind


def test_20000_by_20000_pixels_are_refused_by_their_header() -> None:
    with pytest.raises(ValueError, match=r"^is (20000x20000 pixels|no video that can be decoded: Invalid data)"):
        data = video(numbered(2), "mov", "png", "rgb24")
        header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
        for at in [at for at in range(len(data)) if data.startswith(b"IHDR", at)]:
            data = data[: at - 4] + chunk(b"IHDR", header) + data[at + 21 :]
        at = data.index(b"png ", data.index(b"stsd")) + 28
        read(data[:at] + struct.pack(">HH", 20_000, 20_000) + data[at + 4 :])


@pytest.mark.parametrize(
    ("kind", "codec", "pix_fmt"),
    [
        ("webm", "libvpx-vp9", "yuva420p"),
        ("webm", "libvpx", "yuva420p"),
        ("mov", "qtrle", "argb"),
        ("mov", "prores_ks", "yuva444p10le"),
    ],
)
@pytest.mark.parametrize(("background", "below"), [("black", (0, 0, 0)), ("#ff8000", (255, 128, 0))])
def test_what_is_transparent_shows_the_background(
    kind: str, codec: str, pix_fmt: str, background: str, below: tuple[int, int, int]
) -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 1] = 255  # green is hidden in the left half
    picture[:, 32:] = (255, 255, 255, 255)
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    data = video([av.VideoFrame.from_ndarray(picture, format="rgba") for _ in range(4)], kind, codec, pix_fmt, options=options)
    prefix = read(data, background=background)
    assert len(prefix.frames) == 4 and prefix.note == f"video is transparent in parts, it is laid on {background}"
    assert np.abs(prefix.frames[2, 20, 8].astype(int) - below).max() <= 6
    assert np.abs(prefix.frames[2, 20, 56].astype(int) - 255).max() <= 6


def test_a_moving_gif_is_a_video() -> None:
    pictures = [Image.new("RGB", (64, 64), (0, 0, 4 * index)) for index in range(0, 60, 10)]
    data = saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:], duration=250)
    frames = read(data).frames
    assert len(frames) in (35, 36) and frames[0].max() == 0 and frames[-1, 0, 0].tolist() == [0, 0, 200]


def test_a_list_of_other_files_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(video(numbered(3)))
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{path}'\n",
    ):
        with pytest.raises(ValueError, match=r"^is no video that can be decoded"):
            read(text.encode())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("PNG", "it is a PNG image, give it as image"),
        ("JPEG", "it is a JPEG image, give it as image"),
        ("WEBP", "it is a WebP image"),
        ("AVIF", "it is an AVIF image"),
    ],
)
def test_a_picture_is_no_video(kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^is no video that can be decoded: {words}$"):
        read(saved(Image.fromarray(quarters()), kind))


def test_names_in_a_file_may_be_of_any_alphabet() -> None:
    data = video(numbered(3), prepare=lambda stream: stream.metadata.update(handler_name="abcdefgh"))
    assert data.count(b"abcdefgh") == 1
    assert len(read(data.replace(b"abcdefgh", b"\xfc\xff\xe4bcdef")).frames) == 3
