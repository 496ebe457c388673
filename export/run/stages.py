"""Stages that need not be done twice: each writes a directory that appears whole, named by what it was made from."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from export.run.errors import ExportError


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of facts that JSON can hold, whatever their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Workshop:
    """The directory below which an export keeps its stages."""

    def __init__(self, root: Path, fresh: bool = False) -> None:
        self.root, self.fresh = root, fresh

    @contextlib.contextmanager
    def locked(self) -> Iterator[Path]:
        """Keep a second export of the same variant out while the block runs; a crash frees the lock. Gives the directory.

        Raises:
            ExportError: another export holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ExportError(f"another export is at work in {self.root}: wait for it, or choose another --home") from None
            yield self.root

    def stage(
        self, name: str, facts: Mapping[str, Any], build: Callable[[Path], None], resumable: bool = False
    ) -> tuple[Path, bool]:
        """The directory of stage `name` made from `facts`, and whether it was there already.

        `build` fills a directory that takes its final name only when it is complete, so a crash leaves no half stage.
        With `resumable` it finds there what an earlier attempt with the same facts left.
        """
        directory = self.root / f"{name}-{digest(facts)[:16]}"
        if directory.is_dir() and not self.fresh:
            return directory, True
        partial = directory.with_name(directory.name + ".partial")
        if self.fresh or not resumable:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        try:
            build(partial)
        except BaseException:
            if not resumable:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
        return directory, False


def place(source: Path, destination: Path) -> None:
    """Put a finished file into an artifact without a second copy where the file system allows it."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)
