"""What a generation gives back: events on the way, a video at the end."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videosdgx.artifacts import write_atomically


@dataclass(frozen=True)
class Event:
    """How far a generation is.

    `phase` is queued, loading, encoding, sampling, decoding, muxing, chunk or done. `step` of `steps` sampling steps are
    finished. `elapsed` is in seconds since the server took the request. `detail` says more, such as which component loads.
    Of a clip that is made in chunks, `chunk` of `chunks` is the one in work or, in the phase `chunk`, the one just finished.
    """

    id: str
    phase: str
    step: int = 0
    steps: int = 0
    elapsed: float = 0.0
    detail: str = ""
    chunk: int = 0
    chunks: int = 0


@dataclass(frozen=True)
class Chunk:
    """One finished chunk of a clip that is made in `chunks` of them; `number` counts from 1.

    `data` is the next fragment of an MP4: written one after the other into a file, they play while it grows.
    """

    number: int
    chunks: int
    data: bytes


@dataclass(frozen=True)
class Video:
    """A finished generation: the file's bytes, and what the server says of it (seed, sizes, seconds, artifacts)."""

    data: bytes
    metadata: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all; missing folders are made.

        Raises:
            OSError: it cannot be written.
        """
        target = Path(path)
        write_atomically(target, self.data)
        return target


def parse_event(text: bytes) -> dict[str, Any]:
    """An `event` tensor's JSON as a dictionary."""
    event: dict[str, Any] = json.loads(text)
    return event


def to_event(fields: dict[str, Any]) -> Event:
    """An event from the server's fields; fields that this client does not know are left out."""
    return Event(**{name: fields[name] for name in Event.__dataclass_fields__ if name in fields})
