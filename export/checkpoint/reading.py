"""Finding a checkpoint and reading its tensors one at a time. Safetensors only: a pickle can run code."""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from export.checkpoint.download import download
from export.run.errors import ExportError
from videosdgx.artifacts import sha256_file
from videosdgx.home import CHECKOUT

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def resolve(checkpoint: str) -> Path:
    """The local directory of a checkpoint in diffusers' layout; downloads it if it names a Hugging Face repository.

    `checkpoint` is a directory, one below the checkout, or `owner/name`.

    Raises:
        ExportError: it is not there, cannot be fetched, or is not in diffusers' layout.
    """
    local = next((path for path in (Path(checkpoint).expanduser(), CHECKOUT / checkpoint) if path.is_dir()), None)
    if local is None:
        if not _REPOSITORY.fullmatch(checkpoint):
            raise ExportError(f"no checkpoint at {checkpoint}: give a directory in diffusers' layout with --checkpoint")
        local = download(checkpoint)
    if not (local / "model_index.json").is_file():
        raise ExportError(f"{local} has no model_index.json: a checkpoint must be in diffusers' layout")
    return local


def config(directory: Path) -> dict[str, Any]:
    """The config.json of one component."""
    return _json(directory / "config.json")


def index(directory: Path) -> dict[str, Any]:
    """The model_index.json of a whole checkpoint."""
    return _json(directory / "model_index.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: a checkpoint must be in diffusers' layout") from None
    except json.JSONDecodeError as error:
        raise ExportError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ExportError(f"{path} is not a JSON object")
    return content


def shards(directory: Path) -> list[Path]:
    """The safetensors files of one component, checked to be whole.

    Raises:
        ExportError: there are none (or only pickles), or one is cut short.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        if any(path.suffix in _PICKLES for path in directory.glob("*")):
            raise ExportError(
                f"{directory} holds only pickled weights, which can run code when loaded: "
                "convert them to safetensors (save_pretrained of diffusers does) and export again"
            )
        raise ExportError(f"{directory} holds no *.safetensors: the checkpoint is incomplete")
    for path in files:
        _check_whole(path)
    return files


def _check_whole(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            header = json.loads(file.read(length)) if length <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise ExportError(f"{path} is cut short or is not a safetensors file: download it again")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ExportError(f"{path} has {size} bytes, its header says {expected}: download it again")


def digest(directory: Path) -> str:
    """SHA-256 over the names and contents of a component's config and weights."""
    total = hashlib.sha256()
    for path in [directory / "config.json", *shards(directory)]:
        total.update(f"{path.name} {sha256_file(path)}\n".encode())
    return total.hexdigest()


class Tensors(Mapping[str, Tensor]):
    """The tensors of a component by name, read from its mapped files when they are asked for, in the files' order."""

    def __init__(self, directory: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
        self._place: dict[str, Path] = {}
        for path in shards(directory):
            with safe_open(path, "pt") as file:
                self._place |= {name: path for name in file.keys() if wanted(name)}  # noqa: SIM118  (it is no mapping)
        # One file at a time: what was read of a mapped file counts as this process's memory until it is closed.
        self._open: tuple[Path, Any] | None = None

    def __getitem__(self, name: str) -> Tensor:
        path = self._place[name]
        if self._open is None or self._open[0] != path:
            self._open = None
            self._open = (path, safe_open(path, "pt"))
        value: Tensor = self._open[1].get_tensor(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)
