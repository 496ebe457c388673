"""Reading tensors of official checkpoints: strictly, safetensors only, one at a time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_NAMED_AT_MOST = 8


class CheckpointError(RuntimeError):
    """A checkpoint is incomplete, damaged, or not what it should be; the text names what and where."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what the file's header says of it; `dtype` as safetensors spells it, such as F8_E4M3."""

    path: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        size = int("".join(filter(str.isdigit, self.dtype.split("_")[0]))) // 8
        for length in self.shape:
            size *= length
        return size


def shards_of(folder: Path) -> list[Path]:
    """The files of the checkpoint in `folder`, by its index or the single file that it is.

    Raises:
        CheckpointError: a file is missing, compressed, or a pickle.
    """
    names = [SINGLE]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise CheckpointError(f"{folder / INDEX} is not an index of safetensors files") from None
    for name in names:
        path = folder / name
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX} names {name!r}: only safetensors files of the same folder are read")
        if not path.is_file():
            compressed = path.with_name(f"{name}.zst")
            if compressed.is_file():
                raise CheckpointError(f"{compressed} is compressed: decompress it first (zstd -d {compressed.name})")
            raise CheckpointError(f"{path} is missing; checkpoints are read from safetensors files only")
    return [folder / name for name in names]


def stored_tensors(paths: list[Path]) -> dict[str, StoredTensor]:
    """What the files hold, by name; only their headers are read.

    Raises:
        CheckpointError: a file cannot be read, or two hold the same name.
    """
    found: dict[str, StoredTensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is not a mapping)
                    if name in found:
                        raise CheckpointError(f"{name} is both in {found[name].path.name} and in {path.name}")
                    entry = file.get_slice(name)
                    found[name] = StoredTensor(path, tuple(entry.get_shape()), entry.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
    return found


def read(name: str, stored: StoredTensor) -> Tensor:
    """One tensor from its file."""
    with safe_open(stored.path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def check_exactly(what: str, stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `CheckpointError` unless the names and shapes are the same; it names those that are not."""
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    shapes = [
        f"{name} is {list(stored[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in stored and tuple(stored[name]) != tuple(shape)
    ]
    faults = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    told = [f"{len(names)} {fault}: {_some(names)}" for fault, names in faults if names]
    if told:
        raise CheckpointError(f"{what} does not fit: {'; '.join(told)}")
