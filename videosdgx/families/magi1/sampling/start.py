"""What a clip starts from: an image, or a video that it continues (docs/specs/magi1.md, sections 8 and 10.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videosdgx.families.magi1.sampling.schedule import CHUNK_WIDTH
from videosdgx.media.filters import scale
from videosdgx.media.pictures import flattened
from videosdgx.media.prefix import read_image, read_video

FPS = 24
FRAMES_PER_LATENT = 4
FRAMES_PER_CHUNK = CHUNK_WIDTH * FRAMES_PER_LATENT
OFFICIAL_PREFIX_FRAMES = 32
# A chunk sees four chunks before it at most; what is older has no effect.
LONGEST_PREFIX_FRAMES = 4 * FRAMES_PER_CHUNK
_ANY_LENGTH = 10**9

# A file's bytes or path, or frames uint8 [H,W,3] or [F,H,W,3] or PIL's, for a video at 24 frames/s.
Source = bytes | Path | np.ndarray | Sequence[Any] | Any


@dataclass(frozen=True)
class Start:
    """How a clip of `num_frames` begins, in frames of video.

    Attributes:
        given: uint8 [F,H,W,3], the frames that the clip begins with.
        seen: uint8 [S,H,W,3], those of them that the network gets, the last ones: a whole number of latent frames, unless
            there are less than 4 (then the autoencoder repeats the last one).
    """

    given: np.ndarray
    seen: np.ndarray

    @property
    def latent_frames(self) -> int:
        """Latent frames that the network is given (P in the specification)."""
        return -(-len(self.seen) // FRAMES_PER_LATENT)

    @property
    def offset(self) -> int:
        """The frame of the clip that is the network's first: those before it are too old, or less than a latent frame."""
        return len(self.given) - len(self.seen)

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a clip of `num_frames`."""
        return -(-(num_frames - self.offset) // FRAMES_PER_LATENT)

    def put(self, chunk: int, decoded: np.ndarray, first: bool) -> np.ndarray:
        """The clip's frames of a chunk that was decoded to uint8 [24,H,W,3]: given ones in place of decoded ones; with the
        `first` chunk that is generated also all given ones before it."""
        begin = self.offset + chunk * FRAMES_PER_CHUNK
        new = decoded[max(0, len(self.given) - begin) :]
        return np.concatenate([self.given, new]) if first else new


def start_of(
    image: Source | None, video: Source | None, height: int, width: int, num_frames: int, reference_behaviour: bool = False
) -> Start:
    """Read and scale what is given; nothing gives a `Start` without frames.

    Raises:
        ValueError: both are given, a file is damaged, or the video leaves nothing of `num_frames` to generate.
    """
    if image is not None and video is not None:
        raise ValueError("image and video were both given, give one of them")
    if image is not None:
        given = _frames("image", image, height, width, 1)[:1]
        return Start(given, given)
    if video is None:
        nothing = np.zeros((0, height, width, 3), np.uint8)
        return Start(nothing, nothing)
    given = _frames("video", video, height, width, _ANY_LENGTH if reference_behaviour else num_frames)
    if reference_behaviour:
        return Start(given[:0], given[:OFFICIAL_PREFIX_FRAMES])
    if len(given) >= num_frames:
        raise ValueError(f"video has {len(given)} frames at {FPS} frames/s, num_frames must be more; it is {num_frames}")
    whole = len(given) // FRAMES_PER_LATENT * FRAMES_PER_LATENT
    return Start(given, given[-min(LONGEST_PREFIX_FRAMES, whole) :] if whole else given)


def _frames(name: str, source: Source, height: int, width: int, most: int) -> np.ndarray:
    """uint8 [F,height,width,3]."""
    if isinstance(source, str | Path):
        source = Path(source).read_bytes()
    if isinstance(source, bytes):
        try:
            read = read_image(source, height, width) if name == "image" else read_video(source, height, width, FPS, most)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        return read.frames
    if not isinstance(source, np.ndarray):
        pictures: Sequence[Any] = source if isinstance(source, Sequence) else [source]
        source = np.stack([flattened(picture)[0] for picture in pictures])
    frames = source if source.ndim == 4 else source[None]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"{name} is {frames.dtype} {list(frames.shape)}, it must be uint8 [frames, height, width, 3]")
    return scale(frames, height, width)
