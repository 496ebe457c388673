"""Writing weights beside a graph: each tensor goes to its own place in one file, in whatever order they come."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from export.checkpoint.finite import first_not_finite
from export.graph.tracing import Placeholder
from export.quantize.linears import ONNX_DTYPES, Format, quantized
from export.run.errors import ExportError

_ALIGNMENT = 64  # bytes; what a vector load likes
_SYNC_BYTES = 1 << 29  # how much a stopped export may have to do again


def aligned(size: int) -> int:
    """The bytes that a weight of `size` bytes takes in the file."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def layout(weights: Iterable[Placeholder]) -> tuple[dict[str, int], int]:
    """Where each weight lies (bytes from the start) and the file's size, in the order given."""
    offsets, end = {}, 0
    for weight in weights:
        offsets[weight.name] = end
        end += aligned(weight.bytes)
    return offsets, end


def lowered(
    tensors: Iterable[tuple[str, Tensor]],
    weights: Iterable[Placeholder],
    formats: Mapping[str, Format],
    input_amax: Mapping[str, float],
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For each tensor of a checkpoint its name, and what the graph stores of it by name.

    A quantized layer's weight becomes several tensors, every other is cast to the graph's dtype. `input_amax` is the
    calibrated maximum of each quantized layer's input. Holds one layer at a time.

    Raises:
        ExportError: a tensor is of no use to the graph, or has a value that the graph's dtype cannot hold.
    """
    torch_dtypes = {number: dtype for dtype, number in ONNX_DTYPES.items()}
    dtypes = {weight.name: torch_dtypes.get(weight.onnx_dtype) for weight in weights}
    for name, tensor in tensors:
        layer = name.removesuffix(".weight")
        layer_format = formats.get(layer, "high")
        if layer != name and layer_format != "high":
            values = quantized(tensor, layer_format, input_amax[layer])
            yield name, {f"{layer}.{parameter}": value for parameter, value in values.items()}
        elif name in dtypes:
            stored = tensor.to(dtypes[name])
            if (found := first_not_finite(stored)) is not None:
                raise ExportError(f"{name} does not fit into {str(stored.dtype).removeprefix('torch.')}: it has {found}")
            yield name, {name: stored}
        else:
            raise ExportError(f"the checkpoint has a tensor {name} that this model does not know")


class Journal:
    """The checkpoint's tensors that a file of weights holds already, so that a stopped export goes on where it was.

    A name is noted only after the bytes have reached the disk, once in a while, because waiting for the disk takes time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done = set(path.read_text().split()) if path.exists() else set()
        self._pending: list[str] = []
        self._bytes = 0

    def note(self, name: str, size: int, file: BinaryIO) -> None:
        """`size` bytes of tensor `name` were given to `file`."""
        self._pending.append(name)
        self._bytes += size
        if self._bytes >= _SYNC_BYTES:
            self.flush(file)

    def flush(self, file: BinaryIO) -> None:
        """Have everything on the disk and noted."""
        file.flush()
        os.fsync(file.fileno())
        with self._path.open("a") as lines:
            lines.write("".join(f"{name}\n" for name in self._pending))
        self._pending, self._bytes = [], 0


def write(
    path: Path,
    weights: Iterable[Placeholder],
    offsets: Mapping[str, int],
    size: int,
    tensors: Iterable[tuple[str, dict[str, Tensor]]],
    report: Callable[[int], None],
    journal: Journal | None = None,
) -> None:
    """Write what `lowered` gives to its offsets; `report` is told the bytes of each tensor.

    With a `journal`, the tensors that it names are in the file already, and `tensors` leaves them out.

    Raises:
        ExportError: a tensor is unknown, has another size than the graph says, or one never came.
    """
    missing = {weight.name: weight for weight in weights}
    done = journal.done if journal else set()
    with path.open("r+b" if path.exists() and done else "wb") as file:
        file.truncate(size)
        for source, parts in tensors:
            for name, tensor in parts.items():
                placeholder = missing.pop(name, None)
                if placeholder is None:
                    raise ExportError(f"the graph has no weight {name}, or it was written twice")
                data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
                if data.nbytes != placeholder.bytes:
                    raise ExportError(
                        f"{name} has {data.nbytes} bytes {tuple(tensor.shape)} {tensor.dtype}, "
                        f"the graph wants {placeholder.bytes} for {placeholder.shape}"
                    )
                file.seek(offsets[name])
                file.write(data.data)
                report(data.nbytes)
            if journal:
                journal.note(source, sum(tensor.nbytes for tensor in parts.values()), file)
        if journal:
            journal.flush(file)
    absent = sorted(name for name in missing if not _is_from(name, done))
    if absent:
        raise ExportError(f"the checkpoint has no tensor for {', '.join(absent[:3])} ({len(absent)} in all)")


def _is_from(name: str, done: set[str]) -> bool:
    """Whether a graph's tensor was made from one of the checkpoint's tensors `done`: a weight's scales come with it."""
    layer, _, parameter = name.rpartition(".")
    return name in done or (parameter != "bias" and f"{layer}.weight" in done)
