"""How a finished file, or a finished part of one, reaches the client."""

import base64
import uuid
from pathlib import Path

from videosdgx.artifacts import write_atomically


def deliver(file: bytes, response_format: str, home: Path, name: str) -> bytes:
    """The `video` output: the bytes themselves, as base64 text, or the path of a new file in `home/outputs`.

    Raises:
        OSError: the file could not be written.
    """
    if response_format == "b64_json":
        return base64.b64encode(file)
    if response_format == "path":
        path = home / "outputs" / f"{name}-{uuid.uuid4().hex[:8]}.mp4"
        write_atomically(path, file)
        return str(path).encode()
    return file
