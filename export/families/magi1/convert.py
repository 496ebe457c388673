"""Official checkpoints to diffusers' layout, once (docs/specs/magi1.md, section 2).

Names and values stay as they are; what changes is the files' names, the configuration beside them, and that E4M3 weights
are stored as their bytes (see `fp8`). Memory stays within one output file's size.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.stored import CheckpointError, Files, StoredTensor, check_exactly, stored_tensors
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

SHARD_BYTES = 2 * 10**9
_FILE = "diffusion_pytorch_model"
_FLOATS = {"F32", "BF16", "F16"}


def weights_folder(checkpoint: Path, config: Mapping[str, Any]) -> Path:
    """Where a variant's weights are below its folder, such as `inference_weight.fp8.distill`; or the folder itself is that.

    Raises:
        CheckpointError: neither.
    """
    name = "inference_weight" + (".fp8" if config.get("fp8_layers") else "") + (".distill" if config.get("distilled") else "")
    if (checkpoint / name).is_dir():
        return checkpoint / name
    if checkpoint.name == name and checkpoint.is_dir():
        return checkpoint
    raise CheckpointError(f"{checkpoint / name} is missing: give the folder of the variant that was asked for")


def _groups(stored: Mapping[str, StoredTensor], most: int) -> Iterator[list[str]]:
    """The names in their order, cut into groups of at most `most` bytes (or a single tensor)."""
    group: list[str] = []
    size = 0
    for name, tensor in stored.items():
        if group and size + tensor.nbytes > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += tensor.nbytes
    yield group


def _converted(name: str, stored: StoredTensor, files: Files) -> Tensor:
    tensor = files.read(name, stored)
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


def write_sharded(stored: Mapping[str, StoredTensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the tensors into `folder` in diffusers' files, at most `shard_bytes` in memory at a time."""
    groups, files = list(_groups(stored, shard_bytes)), Files()
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = f"{_FILE}-{number:05d}-of-{len(groups):05d}.safetensors" if len(groups) > 1 else f"{_FILE}.safetensors"
        save_file({name: _converted(name, stored[name], files) for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(groups) > 1:
        total = sum(tensor.nbytes for tensor in stored.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{_FILE}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _check_dtypes(folder: Path, stored: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]) -> None:
    for name, tensor in stored.items():
        allowed = {"F8_E4M3", "U8"} if expected[name].dtype == torch.uint8 else _FLOATS
        if tensor.dtype not in allowed:
            raise CheckpointError(f"{folder}: {name} is {tensor.dtype}, it must be {' or '.join(sorted(allowed))}")


def convert_transformer(
    checkpoint: Path, destination: Path, variant: str, config: Mapping[str, Any] | None = None, shard_bytes: int = SHARD_BYTES
) -> None:
    """Convert the network of an official checkpoint.

    Args:
        checkpoint: the variant's folder, such as `ckpt/magi/4.5B_base`.
        destination: of diffusers' layout (`transformer` of a pipeline); it must not exist, and appears when it is whole.
        variant: of `architectures.TRANSFORMERS`, such as `4.5b-base`; names what is converted if `config` is given.
        config: of `MagiTransformer3DModel`; default: the variant's.
        shard_bytes: of an output file, which is what is held in memory.

    Raises:
        CheckpointError: names or shapes differ from the variant's, or files are missing, compressed, damaged or no
            safetensors.
        FileExistsError: there is something at `destination`.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists")
    config = TRANSFORMERS[variant] if config is None else config
    folder = weights_folder(checkpoint, config)
    stored = stored_tensors(folder)
    with torch.device("meta"):
        model = MagiTransformer3DModel(**config)
    expected = model.state_dict()
    check_exactly(
        f"{folder} as {variant}",
        {name: tensor.shape for name, tensor in stored.items()},
        {name: tuple(tensor.shape) for name, tensor in expected.items()},
    )
    _check_dtypes(folder, stored, expected)
    partial = destination.with_name(f"{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_config(partial)
    write_sharded(stored, partial, shard_bytes)
    partial.rename(destination)
