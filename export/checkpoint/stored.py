"""Which files a folder of weights is, and where each tensor is in them: strictly, safetensors only, one tensor at a time.

A folder with an index is what the index says, whatever lies beside it; without one it is its only file, or its numbered ones.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.checkpoint.finite import first_not_finite
from export.run.errors import ExportError

# Names that weights have: of diffusers' networks, and of transformers' and the official ones.
_NAMES = ("diffusion_pytorch_model", "model")
_INDEX, _FILE = ".safetensors.index.json", ".safetensors"
_NUMBERED = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NAMED_AT_MOST = 8


class CheckpointError(ExportError):
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


def index_of(folder: Path) -> Path | None:
    """The index of the weights in `folder`, if there is one.

    Raises:
        CheckpointError: there are several, and none has a usual name.
    """
    usual = (folder / f"{name}{_INDEX}" for name in _NAMES)
    if found := next((path for path in usual if path.is_file()), None):
        return found
    others = sorted(folder.glob(f"*{_INDEX}"))
    if len(others) > 1:
        raise CheckpointError(f"{folder} has several indices, keep one: {_some([path.name for path in others])}")
    return others[0] if others else None


def _placed(index: Path) -> dict[str, str]:
    """File by tensor, as an index has it."""
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        if not places or not all(isinstance(name, str) for name in places.values()):
            raise TypeError
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{index} is not an index of safetensors files") from None
    for name in sorted(set(places.values())):
        if Path(name).name != name or not name.endswith(_FILE):
            raise CheckpointError(f"{index} names {name!r}: only safetensors files of the same folder are read")
    return dict(places)


def shards_of(folder: Path) -> list[Path]:
    """The files of the weights in `folder`: those that its index names, or the one, or the numbered ones, that are there.

    Raises:
        CheckpointError: there are none (or only pickles), one is missing, compressed or cut short, or it is not certain which
            files belong together.
    """
    index = index_of(folder)
    names = _without_index(folder) if index is None else sorted(set(_placed(index).values()))
    for name in names:
        path = folder / name
        if not path.is_file():
            why = f", which {index.name} names" if index else ""
            if (compressed := path.with_name(f"{name}.zst")).is_file():
                raise CheckpointError(f"{compressed} is compressed: decompress it first (zstd -d {compressed.name})")
            raise CheckpointError(f"{path} is missing{why}: download it again; only safetensors files are read")
        _check_whole(path)
    return [folder / name for name in names]


def _without_index(folder: Path) -> list[str]:
    """The files of a folder that has no index, those of a numbered set also where they are not there."""
    found = sorted(path.name for path in folder.glob(f"*{_FILE}"))
    numbered = [part for name in found if (part := _NUMBERED.fullmatch(name))]
    sets = {(part["name"], part["count"]) for part in numbered}
    single = [name for name in found if not _NUMBERED.fullmatch(name)]
    usual = [f"{name}{_FILE}" for name in _NAMES if f"{name}{_FILE}" in single]
    if sets and (len(sets) > 1 or single):
        raise CheckpointError(
            f"{folder} has no index and more than one set of weights, keep one: {_some([*single, *(p[0] for p in numbered)])}"
        )
    for name, count in sets:
        return [f"{name}-{number:05}-of-{count}{_FILE}" for number in range(1, int(count) + 1)]
    if len(usual) > 1 or (len(single) > 1 and not usual):
        raise CheckpointError(f"{folder} has no index and several files of weights, keep one: {_some(single)}")
    if single:
        return usual or single
    if any(path.suffix in _PICKLES for path in folder.glob("*")):
        raise CheckpointError(
            f"{folder} holds only pickled weights, which can run code when loaded, and checkpoints are read from safetensors "
            "files only: convert them (save_pretrained of diffusers does) and export again"
        )
    compressed = sorted(folder.glob(f"*{_FILE}.zst"))
    if compressed:
        raise CheckpointError(f"{compressed[0]} is compressed: decompress it first (zstd -d {compressed[0].name})")
    raise CheckpointError(f"{folder} holds no *{_FILE}, {_NAMES[1]}{_FILE} is missing: the checkpoint is incomplete")


def _check_whole(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            header = json.loads(file.read(length)) if length <= size else None
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]  # type: ignore[union-attr]
        except (ValueError, AttributeError, TypeError, KeyError, IndexError):
            raise CheckpointError(f"{path} is cut short or is not a safetensors file: download it again") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise CheckpointError(f"{path} has {size} bytes, its header says {expected}: download it again")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What the weights in `folder` are, by name and in the files' order; only headers are read.

    Raises:
        CheckpointError: as for `shards_of`; or a file does not hold what the index says; or, without an index, two files hold
            the same name.
    """
    files, index = shards_of(folder), index_of(folder)
    places = None if index is None else _placed(index)
    found: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is not a mapping)
                    if places is not None and places.get(name) != path.name:
                        continue  # the index says that it is elsewhere, or no part of this
                    if name in found:
                        raise CheckpointError(f"{name} is both in {found[name].path.name} and in {path.name}")
                    entry = file.get_slice(name)
                    found[name] = StoredTensor(path, tuple(entry.get_shape()), entry.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from None
    if places is not None and (lost := sorted(places.keys() - found.keys())):
        raise CheckpointError(f"{folder / places[lost[0]]} does not hold what {index} says: {_some(lost)}")
    return found


def check_finite(name: str, tensor: Tensor, path: Path) -> None:
    """Raise `CheckpointError` if the tensor `name` that was read from `path` has a NaN or an infinity."""
    if (found := first_not_finite(tensor)) is not None:
        raise CheckpointError(f"{name} in {path} has {found}: download it again, or choose another checkpoint")


class Files:
    """Reads tensors of mapped files, and looks at each for NaN and infinity when it is read for the first time."""

    def __init__(self) -> None:
        # One file at a time: what was read of a mapped file counts as this process's memory until it is closed.
        self._open: tuple[Path, Any] | None = None
        self._looked_at: set[str] = set()

    def read(self, name: str, stored: StoredTensor) -> Tensor:
        """One tensor from its file.

        Raises:
            CheckpointError: it has a NaN or an infinity.
        """
        if self._open is None or self._open[0] != stored.path:
            self._open = None
            self._open = (stored.path, safe_open(stored.path, framework="pt"))
        tensor: Tensor = self._open[1].get_tensor(name)
        if name not in self._looked_at:
            check_finite(name, tensor, stored.path)
            self._looked_at.add(name)
        return tensor


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


def check_none_missing(what: str, stored: Iterable[str], expected: Iterable[str]) -> None:
    """Raise `CheckpointError` if a tensor that is needed is not there; it names those."""
    if missing := sorted(set(expected) - set(stored)):
        raise CheckpointError(f"{what} does not fit its config.json: {len(missing)} missing: {_some(missing)}")


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
