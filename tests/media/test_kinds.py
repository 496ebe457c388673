"""Files that come as text: base64 and data: URLs, as JSON has to carry them."""

import base64
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from tests.media.files import numbered, quarters, saved, video
from videosdgx.media.kinds import file_of, kind

PNG = saved(Image.fromarray(quarters(8, 12)), "PNG")
MP4 = video(numbered(3))
# Ends with one, two and three bytes beyond a whole number of base64's groups; its base64 has characters of both alphabets.
FILES = [PNG, MP4, MP4 + b"\xfb", MP4 + b"\xff\xfe"]


@pytest.mark.parametrize("file", FILES)
def test_base64_of_every_kind_is_the_file(file: bytes) -> None:
    text = base64.b64encode(file)
    for form in (text, base64.encodebytes(file), base64.urlsafe_b64encode(file), text.rstrip(b"="), b"\n " + text + b"\r\n"):
        assert file_of(form) == file


@pytest.mark.parametrize("file", FILES)
def test_so_is_a_data_url(file: bytes) -> None:
    text = base64.b64encode(file)
    for about in (b"image/png;base64", b";base64", b"video/mp4;codecs=avc1;base64", b"IMAGE/PNG;BASE64"):
        assert file_of(b"data:" + about + b"," + text) == file
    assert file_of(b"Data:;base64," + urllib.parse.quote(text, safe="").encode()) == file
    assert file_of(b"data:;base64," + text.rstrip(b"=")) == file
    assert file_of(b"data:application/octet-stream," + urllib.parse.quote_from_bytes(file).encode()) == file


@pytest.mark.parametrize(
    "data", [*FILES, b"", b"\0" * 9, b"x", b"png", b"/home/me/picture.png", b"http://a.b/c", bytes(range(256))]
)
def test_what_is_a_file_already_stays_as_it_is(data: bytes) -> None:
    assert file_of(data) == data


def test_random_bytes_are_never_taken_for_text() -> None:
    random = np.random.default_rng(0)
    for size in (12, 100, 1000):
        data = b"\x00" + random.bytes(size)
        assert file_of(data) == data


@pytest.mark.parametrize("text", [b"data:image/png;base64,@@@", b"data:;base64,", b"data:;base64,A"])
def test_a_data_url_that_cannot_be_read_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^is a data: URL whose base64 cannot be read$"):
        file_of(text)


def test_kinds_have_names() -> None:
    assert [kind(file) for file in (PNG, MP4, b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI LIST", b"", b"hello")] == [
        "a PNG image", "an MP4 or MOV video", "a Matroska or WebM video", "an AVI video", "", "",
    ]  # fmt: skip
