"""Fetching a checkpoint from the Hugging Face Hub: only safetensors and configurations, resumed where it stopped."""

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from export.run.errors import ExportError

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt"]


def download(repository: str, folders: Collection[str] = ("",)) -> Path:
    """The local directory of `repository` ("owner/name"), with a progress bar for what has to be fetched.

    Only `folders` of it, with all below them, if they are given ("ckpt/vae"). Files go to Hugging Face's cache ($HF_HOME);
    what an earlier attempt fetched is not fetched again.

    Raises:
        ExportError: there is no such repository, no connection, or not enough room on the disk.
    """
    # Imported here: it takes half a second, and an export of a local directory does without.
    from huggingface_hub import HfApi, constants, snapshot_download

    patterns = [f"{folder}/{kind}" if folder else kind for folder in folders for kind in _WANTED]
    cache = Path(constants.HF_HUB_CACHE)
    try:
        info = HfApi().model_info(repository, files_metadata=True)
        blobs = cache / f"models--{repository.replace('/', '--')}" / "blobs"
        _require_room(cache, repository, bytes_to_fetch(info.siblings or [], blobs, patterns))
        return Path(snapshot_download(repository, revision=info.sha, allow_patterns=patterns))
    except ExportError:
        raise
    except Exception as error:  # beside its own errors the Hub's client lets those of its HTTP library through, whichever it is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f"cannot download {repository} ({reason}): run it again to go on, or download it elsewhere and give its "
            "directory with --checkpoint"
        ) from None


def bytes_to_fetch(files: Iterable[Any], blobs: Path, patterns: list[str] = _WANTED) -> int:
    """How much of a repository's `files` (the Hub's entries with their sizes) is wanted and not yet in the cache's `blobs`."""
    from huggingface_hub.utils import filter_repo_objects

    wanted = filter_repo_objects(files, allow_patterns=patterns, key=lambda file: file.rfilename)
    return sum(file.size or 0 for file in wanted if not _is_cached(blobs, file))


def _is_cached(blobs: Path, file: object) -> bool:
    """Whether the cache holds a file already; it is stored under its digest."""
    lfs = getattr(file, "lfs", None)
    name = lfs.sha256 if lfs else getattr(file, "blob_id", None)
    return bool(name) and (blobs / str(name)).is_file()


def _require_room(cache: Path, repository: str, needed: int) -> None:
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ExportError(
            f"{repository} needs {needed / 1e9:.1f} GB more and {existing} has {free / 1e9:.1f} GB free: make room, or "
            "put the cache elsewhere with HF_HOME"
        )


def fetch(url: str, path: Path, sha256: str) -> None:
    """Write the small file at `url` to `path`, unless it is there already.

    Raises:
        ExportError: no connection, or it is another file than `sha256` says.
    """
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
        return
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise ExportError(f"cannot download {url} ({error}): run it again to go on") from None
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ExportError(f"{url} has SHA-256 {found}, it must be {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
