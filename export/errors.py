"""The error that a person sees as one line, and the check that spares them one."""

import shutil
from pathlib import Path


class ExportError(Exception):
    """What is wrong, the limit or the place, and what to do."""


def require_space(directory: Path, needed: int) -> None:
    """Check that `needed` bytes fit on the disk of `directory`, which exists.

    Raises:
        ExportError: they do not.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        sizes = f"{directory.parent} has {free / 1e9:.1f} GB free and this needs {needed / 1e9:.1f} GB"
        raise ExportError(f"{sizes}: make room, or choose another --home")
