"""The error that a person sees as one line, and the checks that spare them one."""

import shutil
from pathlib import Path

from videosdgx import memory


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


def require_memory(what: str, needed: int, instead: str) -> None:
    """Check that `needed` bytes of memory can be had for `what`; `instead` says what a person can do.

    Raises:
        ExportError: they cannot. The kernel would kill the process that asks for them, or another one.
    """
    free = memory.available()
    if free < needed:
        raise ExportError(f"{what} needs at least {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: {instead}")
