"""Fetching a checkpoint from the Hugging Face Hub: only safetensors and configurations, resumed where it stopped."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.errors import ExportError

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt"]


def download(repository: str) -> Path:
    """The local directory of `repository` ("owner/name"), with a progress bar for what has to be fetched.

    Files go to Hugging Face's cache ($HF_HOME); what an earlier attempt fetched is not fetched again.

    Raises:
        ExportError: there is no such repository, no connection, or not enough room on the disk.
    """
    # Imported here: it takes half a second, and an export of a local directory does without.
    from huggingface_hub import HfApi, constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE)
    try:
        info = HfApi().model_info(repository, files_metadata=True)
        blobs = cache / f"models--{repository.replace('/', '--')}" / "blobs"
        _require_room(cache, repository, bytes_to_fetch(info.siblings or [], blobs))
        return Path(snapshot_download(repository, revision=info.sha, allow_patterns=_WANTED))
    except ExportError:
        raise
    except Exception as error:  # beside its own errors the Hub's client lets those of its HTTP library through, whichever it is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f"cannot download {repository} ({reason}): run it again to go on, or download it elsewhere and give its "
            "directory with --checkpoint"
        ) from None


def bytes_to_fetch(files: Iterable[Any], blobs: Path) -> int:
    """How much of a repository's `files` (the Hub's entries with their sizes) is wanted and not yet in the cache's `blobs`."""
    from huggingface_hub.utils import filter_repo_objects

    wanted = filter_repo_objects(files, allow_patterns=_WANTED, key=lambda file: file.rfilename)
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
