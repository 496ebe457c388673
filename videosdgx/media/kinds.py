"""What a file is, by how it begins, and files that come as text: base64 and `data:` URLs, as JSON has to carry them."""

import base64
import binascii
import io
import re
from urllib.parse import unquote_to_bytes

from PIL import Image

# What Pillow tells apart that browsers and phones make; the two that are taken are among them.
_PICTURES = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "ICO", "JPEG2000", "PSD", "TGA", "PPM")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Beginnings of files that Pillow does not know.
_BEGINNINGS = {
    b"\x1a\x45\xdf\xa3": "a Matroska or WebM video",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"OggS": "an Ogg file",
    b"ID3": "an MP3 file",
}
_TEXTS = {
    b"http://": "an address",
    b"https://": "an address",
    b"<svg": "an SVG image",
    b"<!doctype": "a web page",
    b"<html": "a web page",
}
_DATA_URL = re.compile(rb"data:(?P<about>[^,]{0,200}),", re.IGNORECASE)
_IN_BASE64 = re.compile(rb"[\w+/=\s-]+", re.ASCII)
_SPACE = b" \t\r\n"


def kind(data: bytes) -> str:
    """What `data` is, such as `an animated WebP image`; empty if nothing is known of it."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        return "a HEIC image"
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "an AVI video"
    text = data[:1000].lstrip(_SPACE).lower()
    for beginning, name in _TEXTS.items():
        if text.startswith(beginning) or (text.startswith(b"<?xml") and beginning in text):
            return name
    return _picture(data) or ("an MP4 or MOV video" if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") else "")


def _picture(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=_PICTURES) as image:
            names = {"MPO": "JPEG", "WEBP": "WebP", "JPEG2000": "JPEG 2000"}
            name = names.get(image.format or "", image.format or "")
            moves = getattr(image, "is_animated", False) and image.format in ("PNG", "GIF", "WEBP", "AVIF")
    except Exception:  # whatever is wrong with it, it is no picture that could be named
        return ""
    article = "an" if moves or name[0] in "AI" else "a"
    return f"{article} {'animated ' if moves else ''}{name} image"


def file_of(data: bytes) -> bytes:
    """The file that `data` is, or that it has as text: as base64, or as a `data:` URL.

    Base64 is what has nothing but base64's characters (of either alphabet, with line breaks) and whole padding. Without
    padding it is base64 if a file of a known kind comes out.

    Raises:
        ValueError: it begins as a `data:` URL, and its data cannot be read. The message begins with "is".
    """
    address = _DATA_URL.match(data[:300].lstrip(_SPACE))
    if address:
        text = data.lstrip(_SPACE)[address.end() :]
        if not address["about"].lower().rstrip().endswith(b";base64"):
            return unquote_to_bytes(text)
        try:
            return _base64(unquote_to_bytes(text), padded=False)
        except binascii.Error:
            raise ValueError("is a data: URL whose base64 cannot be read") from None
    if not _IN_BASE64.fullmatch(data[:100]):  # so that not all of a large file has to be looked at
        return data
    try:
        return _base64(data, padded=True)
    except binascii.Error:
        pass
    try:
        found = _base64(data, padded=False)
    except binascii.Error:
        return data
    return found if kind(found) else data


def _base64(text: bytes, padded: bool) -> bytes:
    """What base64 `text` of either alphabet stands for.

    Raises:
        binascii.Error: it is none; with `padded`, also if its padding is not whole.
    """
    text = text.translate(bytes.maketrans(b"-_", b"+/"), delete=_SPACE)
    if not padded:
        text = text.rstrip(b"=")
        text += b"=" * (-len(text) % 4)
    if not text:
        raise binascii.Error("empty")
    return base64.b64decode(text, validate=True)
