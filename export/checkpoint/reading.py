"""Finding a checkpoint and reading its tensors one at a time. Safetensors only: a pickle can run code."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoint.download import download
from export.checkpoint.stored import Files, shards_of, stored_tensors
from export.run.errors import ExportError
from videosdgx.artifacts import sha256_file
from videosdgx.home import CHECKOUT

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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


def digest(directory: Path) -> str:
    """SHA-256 over the names and contents of a component's config and weights."""
    total = hashlib.sha256()
    for path in [directory / "config.json", *shards_of(directory)]:
        total.update(f"{path.name} {sha256_file(path)}\n".encode())
    return total.hexdigest()


class Tensors(Mapping[str, Tensor]):
    """The tensors of a component by name, read from its mapped files when they are asked for, in the files' order.

    A tensor with a NaN or an infinity is refused by name when it is asked for.
    """

    def __init__(self, directory: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
        self._stored = {name: stored for name, stored in stored_tensors(directory).items() if wanted(name)}
        self._files = Files()

    def __getitem__(self, name: str) -> Tensor:
        return self._files.read(name, self._stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def text_encoder(model_class: Any, directory: Path) -> Any:
    """A transformers model of `model_class` in fp32, whole in memory, from the files that are read everywhere else here.

    transformers by itself takes an old whole file that lies beside shards, whatever their index says.
    """
    own = model_class.config_class.from_pretrained(directory)
    return model_class.from_pretrained(None, config=own, state_dict=dict(Tensors(directory)), dtype=torch.float32)
