"""Pictures as a person sees them: PNG and JPEG to RGB, upright, with something behind what is transparent.

Pillow reads them. ffmpeg looks at JPEGs too, as Pillow shows what is damaged in the middle of one as gray.
Messages of errors begin with "is" or "has": the caller puts the name of the input in front.
"""

import contextlib
import io

import av
import numpy as np
from PIL import Image, ImageCms, ImageColor
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from videosdgx.media.kinds import kind

# 8K in both directions; beyond it a small file can ask for all the memory there is.
MOST_PIXELS = 7680 * 4320
BLACK = "black"

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_ORIENTATION = 0x0112
# What makes a picture of each EXIF orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255 each, of a colour as CSS writes it: `#rrggbb`, `#rgb`, a name, `rgb(255, 0, 0)`.

    Raises:
        ValueError: it is none, or is transparent itself.
    """
    found = ImageColor.getrgb(text.strip())
    if len(found) != 3:
        raise ValueError(f"{text!r} is transparent")
    return found


def read_picture(data: bytes, background: str = BLACK) -> tuple[np.ndarray, list[str]]:
    """A PNG or JPEG file as uint8 [H,W,3] of sRGB at its own size, and what was done to it, in words.

    Args:
        data: the file.
        background: a colour, for what is transparent.

    Raises:
        ValueError: it is neither, is damaged, or is too large.
    """
    if not data.startswith((_PNG, _JPEG)):
        what = kind(data)
        raise ValueError(f"is neither a PNG nor a JPEG image{f', it is {what}' if what else ''}")
    try:
        image = PngImageFile(io.BytesIO(data)) if data.startswith(_PNG) else JpegImageFile(io.BytesIO(data))
    except Exception as error:  # whatever Pillow's parsers raise, the file made them do it
        raise ValueError(f"is a damaged image: {_reason(error)}") from None
    # Not `Image.open`, whose own limit is another one and says nothing of width and height.
    check_size(*image.size)
    try:
        _decode(image, data)
    except Exception as error:
        raise ValueError(f"is a damaged image: {_reason(error)}") from None
    notes = []
    if getattr(image, "is_animated", False) and image.format == "PNG":
        notes.append("image is animated, its first picture is taken")
    if isinstance(image, PngImageFile):
        _scale_transparent_colour(image, depth=data[24])
    orientation = _orientation(image.info.get("exif", b""))
    array, transparent = flattened(_in_srgb(image), background)
    if transparent:
        notes.append(f"image is transparent in parts, it is laid on {background}")
    if orientation in _UPRIGHT:
        array = np.array(Image.fromarray(array).transpose(_UPRIGHT[orientation]))
    return array, notes


def check_size(width: int, height: int) -> None:
    """Raise ValueError if that is more than is ever decoded."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"is {width}x{height} pixels, at most {MOST_PIXELS} pixels are allowed")


def _decode(image: Image.Image, data: bytes) -> None:
    """Decode all of a picture; raises what Pillow or ffmpeg raise if a part is damaged or missing."""
    if isinstance(image, PngImageFile):
        # Compares the checksums of all chunks, which decoding does not. It can only be done to a file just opened.
        PngImageFile(io.BytesIO(data)).verify()
    else:
        _refuse_damaged_jpeg(data)
    image.load()


def _refuse_damaged_jpeg(data: bytes) -> None:
    """Have ffmpeg decode a JPEG, which finds what libjpeg only warns of. Kinds that only libjpeg knows pass."""
    with contextlib.suppress(av.error.PatchWelcomeError), av.open(io.BytesIO(_without_notes(data)), format="jpeg_pipe") as file:
        stream = file.streams.video[0]
        stream.codec_context.options = {"err_detect": "explode"}
        next(file.decode(stream))


def _without_notes(data: bytes) -> bytes:
    """A JPEG without what cameras and programs note in it: a mistake in there says nothing of the picture."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:  # the picture begins
            break
        # APP14 says in which colours it is.
        if not (0xE0 <= marker <= 0xEF and marker != 0xEE) and marker != 0xFE:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _orientation(exif: bytes) -> int:
    """What EXIF says of how the camera was held, 1 to 8; 1 if it is damaged or says nothing."""
    found = Image.Exif()
    with contextlib.suppress(Exception):  # viewers show pictures whose notes are damaged
        found.load(exif)
        return int(found.get(_ORIENTATION, 1))
    return 1


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Bring the colour that a PNG of `depth` bits calls transparent to 8 bits, as Pillow has brought the picture's."""
    clear = image.info.get("transparency")
    if image.mode == "RGB" and depth == 16 and clear is not None:
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    elif image.mode == "L" and depth < 8 and clear is not None:
        image.info["transparency"] = clear * 255 // ((1 << depth) - 1)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Of mode RGB or RGBA, in the colours that screens show, 8 bits each."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit gray, which Pillow would clip
        values = np.asarray(image)
        clear = image.info.get("transparency")
        image = Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB") if alpha is None else image.convert("RGBA").convert("RGB")
    if profile:
        # Of a damaged profile, or one of other colours than the picture's, viewers take no notice.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            image = image if converted is None else converted
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


def flattened(image: Image.Image, background: str = BLACK) -> tuple[np.ndarray, bool]:
    """Uint8 [H,W,3] of a picture on a background, and whether any of it was transparent.

    Raises:
        ValueError: `background` is no colour.
    """
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), False
    whole = image.convert("RGBA")
    if whole.getchannel("A").getextrema()[0] == 255:
        return np.array(whole.convert("RGB")), False
    below = Image.new("RGBA", whole.size, (*colour(background), 255))
    return np.array(Image.alpha_composite(below, whole).convert("RGB")), True


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.FFmpegError):
        return error.strerror
    # Anything but these is an accident in a parser, whose words say nothing of the file.
    told = isinstance(error, OSError | SyntaxError) and error.__cause__ is None
    return str(error) if told else "it is not as such a file must be"
