"""Pictures as a person sees them. What is right is told by Pillow where ours is not Pillow's, by ffmpeg, or by arithmetic."""

import io
import shutil
import struct
import subprocess
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from tests.media.files import CHANNELS, chunk, png, quarters, saved
from videosdgx.media.pictures import colour, read_picture
from videosdgx.media.prefix import read_image

FFMPEG = shutil.which("ffmpeg")


def noise(height: int = 200, width: int = 240) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_upright_whatever_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(quarters()), kind, exif=exif)
    picture, notes = read_picture(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert notes == [] and np.array_equal(picture, expected)
    if orientation == 6:  # the camera was held so that the first row is the right side
        assert picture.shape == (96, 64, 3) and np.abs(picture[10, 50].astype(int) - (255, 0, 0)).max() < 8


def test_damaged_exif_says_nothing() -> None:
    plain = saved(Image.fromarray(quarters()), "JPEG")
    notes = b"Exif\0\0II*\0" + b"\xff" * 16
    data = plain[:2] + b"\xff\xe1" + (len(notes) + 2).to_bytes(2) + notes + plain[2:]
    with warnings.catch_warnings(action="ignore"):  # Pillow's
        assert np.array_equal(read_picture(data)[0], read_picture(plain)[0])


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("kind", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
)
def test_every_kind_of_png_has_the_colours_that_ffmpeg_sees(kind: int, depth: int, interlaced: bool) -> None:
    random = np.random.default_rng(depth)
    samples = random.integers(0, 1 << depth, (13, 11, CHANNELS[kind]))
    before = [(b"PLTE", random.bytes(3 << depth))] if kind == 3 else []
    data = png(samples, kind, depth, before, interlaced)
    command = [FFMPEG, "-v", "error", "-i", "-", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    expected = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    difference = read_picture(data)[0].astype(int) - np.frombuffer(expected, np.uint8).reshape(13, 11, 3)
    assert np.abs(difference).max() <= (1 if depth == 16 else 0)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [4, 6], ids=["gray", "rgb"])
@pytest.mark.parametrize("background", ["black", "#ff8000", "white", "hsl(120, 100%, 50%)"])
def test_what_is_transparent_shows_the_background(kind: int, depth: int, background: str) -> None:
    most = (1 << depth) - 1
    samples = np.full((6, 9, CHANNELS[kind]), most)
    samples[:, :3, -1], samples[:, 3:6, -1] = 0, most * 0.4
    picture, notes = read_picture(png(samples, kind, depth), background)
    below = {"black": (0, 0, 0), "#ff8000": (255, 128, 0), "white": (255,) * 3, "hsl(120, 100%, 50%)": (0, 255, 0)}[background]
    assert np.array_equal(picture[0, 0], below) and np.array_equal(picture[0, 8], (255, 255, 255))
    assert np.abs(picture[0, 4] - (0.4 * 255 + 0.6 * np.array(below))).max() <= 1
    assert notes == [f"image is transparent in parts, it is laid on {background}"]


@pytest.mark.parametrize(
    ("kind", "depth", "clear"),
    [
        (0, 1, (1,)),
        (0, 2, (2,)),
        (0, 4, (9,)),
        (0, 8, (200,)),
        (0, 16, (51234,)),
        (2, 8, (1, 2, 250)),
        (2, 16, (300, 60000, 9)),
    ],
)
def test_a_colour_that_counts_as_transparent_is(kind: int, depth: int, clear: tuple[int, ...]) -> None:
    samples = np.zeros((4, 4, len(clear)), np.int64)
    samples[1, 2] = clear
    data = png(samples, kind, depth, [(b"tRNS", struct.pack(f">{len(clear)}H", *clear))])
    picture, notes = read_picture(data, "#0a141e")
    assert picture[1, 2].tolist() == [10, 20, 30] and picture[0, 0].tolist() == [0, 0, 0] and len(notes) == 1


def test_so_is_a_transparent_entry_of_a_palette() -> None:
    data = png(np.array([[[0], [1]]]), 3, 8, [(b"PLTE", bytes([0, 255, 0, 9, 8, 7])), (b"tRNS", b"\0")])
    picture, notes = read_picture(data)
    assert picture.tolist() == [[[0, 0, 0], [9, 8, 7]]] and notes == ["image is transparent in parts, it is laid on black"]


def test_alpha_that_hides_nothing_is_not_worth_a_note() -> None:
    assert read_picture(saved(Image.new("RGBA", (4, 4), (1, 2, 3, 255)), "PNG"))[1] == []


def test_the_edge_of_what_is_transparent_has_nothing_of_the_hidden_colour() -> None:
    image = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (16, 16, 48, 48))
    assert read_image(saved(image, "PNG"), 40, 40).frames[..., 1].max() == 0


@pytest.mark.parametrize("quality", [95])
def test_a_jpeg_of_cmyk_or_gray_has_its_colours(quality: int) -> None:
    for mode, filled, expected in (
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("L", 90, (90, 90, 90)),
        ("CMYK", (0, 0, 0, 128), (127,) * 3),
    ):
        data = saved(Image.new(mode, (32, 32), filled), "JPEG", quality=quality)
        assert np.abs(read_picture(data)[0].astype(int) - expected).max() <= 2, mode


def test_a_profile_that_says_nothing_new_or_does_not_fit_changes_nothing() -> None:
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    for profile in (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")):
        data = saved(image, "PNG", icc_profile=ImageCms.ImageCmsProfile(profile).tobytes())
        assert np.abs(read_picture(data)[0][0, 0].astype(int) - (200, 100, 50)).max() <= 1
    assert read_picture(saved(image, "PNG", icc_profile=b"damaged"))[0][0, 0].tolist() == [200, 100, 50]


def wrong_checksum(data: bytes) -> bytes:
    start = data.index(b"IDAT")
    end = start + 4 + int.from_bytes(data[start - 4 : start])
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


JPEG, PROGRESSIVE = saved(noise(), "JPEG", quality=90), saved(noise(), "JPEG", quality=90, progressive=True)
CMYK, PNG = saved(noise().convert("CMYK"), "JPEG"), saved(noise(), "PNG")
DAMAGED = {
    f"{name}, {how}": damage(data)
    for name, data in {"JPEG": JPEG, "progressive JPEG": PROGRESSIVE, "CMYK JPEG": CMYK, "PNG": PNG}.items()
    for how, damage in {
        "half": lambda data: data[: len(data) // 2],
        "99 %": lambda data: data[: len(data) * 99 // 100],
        "half with an end": lambda data: data[: len(data) // 2] + data[-12:],
        "garbage after the header": lambda data: data[:700] + np.random.default_rng(1).bytes(len(data) - 700),
        "header only": lambda data: data[:33],
        "signature only": lambda data: data[:8],
    }.items()
} | {"PNG, checksum": wrong_checksum(PNG)}  # JPEG has none: what is changed in its middle may still be some picture


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_picture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^is a damaged image: ") as caught:
        read_picture(DAMAGED[name])
    assert "unpack" not in str(caught.value) and "<none>" not in str(caught.value)


def test_what_follows_a_picture_is_not_of_the_picture() -> None:
    for data in (JPEG, PROGRESSIVE, PNG, CMYK):
        assert np.array_equal(read_picture(data)[0], read_picture(data + b"more" * 99)[0])
    # A phone's second picture, and one of several that move.
    both = saved(noise(), "MPO", save_all=True, append_images=[noise().rotate(90)], quality=90)
    assert np.array_equal(read_picture(both)[0], read_picture(JPEG)[0])
    moving = saved(noise(), "PNG", save_all=True, append_images=[noise().rotate(180)])
    picture, notes = read_picture(moving)
    assert np.array_equal(picture, np.asarray(noise())) and notes == ["image is animated, its first picture is taken"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (saved(noise(), "GIF"), "a GIF image"),
        (saved(noise(), "GIF", save_all=True, append_images=[noise().rotate(90)]), "an animated GIF image"),
        (saved(noise(), "WEBP"), "a WebP image"),
        (saved(noise(), "WEBP", save_all=True, append_images=[noise().rotate(90)]), "an animated WebP image"),
        (saved(noise(), "AVIF"), "an AVIF image"),
        (saved(noise(), "BMP"), "a BMP image"),
        (saved(noise(), "TIFF"), "a TIFF image"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "a HEIC image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG image"),
        (b"https://example.org/x.png", "an address"),
        (b"%PDF-1.7", "a PDF document"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_called_by_its_name(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=f"^is neither a PNG nor a JPEG image, it is {what}$"):
        read_picture(data)


def test_20000_by_20000_pixels_are_refused_by_their_header() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    with pytest.raises(ValueError, match=r"^is 20000x20000 pixels, at most 33177600 pixels are allowed$"):
        read_picture(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    at = JPEG.index(b"\xff\xc0") + 5
    with pytest.raises(ValueError, match=r"^is 20000x20000 pixels"):
        read_picture(JPEG[:at] + struct.pack(">HH", 20_000, 20_000) + JPEG[at + 4 :])


@pytest.mark.parametrize(
    ("text", "value"),
    [("#ff8000", (255, 128, 0)), ("#F80", (255, 136, 0)), ("RebeccaPurple", (102, 51, 153)), (" teal ", (0, 128, 128))],
)
def test_colours_are_written_as_in_css(text: str, value: tuple[int, int, int]) -> None:
    assert colour(text) == value


@pytest.mark.parametrize("text", ["", "reddish", "#12", "#ff800080", "255,0,0"])
def test_what_is_no_colour_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        colour(text)
