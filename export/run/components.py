"""The artifacts beside the transformer: text encoder and VAE with their weights, and the pipeline without any."""

import json
import math
import shutil
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open

from export.checkpoint import reading
from export.checkpoint.stored import check_finite, index_of, shards_of
from export.run.errors import ExportError, require_space
from export.run.stages import digest
from export.run.versions import versions
from videosdgx.artifacts import CONFIG, PIPELINE, ArtifactError, Manifest, Memory, Target, artifact_dir, building, seal, verify
from videosdgx.families.spec import FamilySpec

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# The names that safetensors has for dtypes.
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_FLOATING = ("F64", "F32", "F16", "BF16")
_BYTES = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def _is_current(directory: Path, recipe: str) -> bool:
    """Whether there is an artifact that is whole and was made from `recipe`."""
    try:
        return verify(directory).recipe == recipe
    except ArtifactError:
        return False


def _convert(source: Path, destination: Path, dtype: torch.dtype) -> None:
    """Copy one safetensors file with its floating-point tensors in `dtype`, a tensor at a time: the files are gigabytes."""
    with safe_open(source, "pt") as file, destination.open("wb") as copy:
        names = list(file.keys())
        header: dict[str, Any] = {"__metadata__": file.metadata()} if file.metadata() else {}
        end = 0
        for name in names:
            part = file.get_slice(name)
            floating = part.get_dtype() in _FLOATING
            size = math.prod(part.get_shape()) * (dtype.itemsize if floating else _BYTES[part.get_dtype()])
            entry = _SAFETENSORS_NAMES[dtype] if floating else part.get_dtype()
            header[name] = {"dtype": entry, "shape": part.get_shape(), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
        copy.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = file.get_tensor(name)
            tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
            check_finite(name, tensor, source)
            copy.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _write_config(source: Path, destination: Path, precision: str) -> None:
    """A component's config.json, naming the dtype that its weights now have."""
    content: dict[str, Any] = reading.config(source)
    if "dtype" in content or "torch_dtype" in content:
        content.pop("torch_dtype", None)
        content["dtype"] = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    (destination / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def export_component(
    home: Path, source: Path, spec: FamilySpec, variant: str, component: str, target: Target, origin: str
) -> bool:
    """Write the artifact of a component that PyTorch runs, from the checkpoint `source`; False if it was there already.

    Its precision is the one that the family's table has for `target`; `origin` says in words where the checkpoint is from.
    """
    precision = spec.component(component).torch[target]
    content_digest = reading.digest(source / component)
    recipe = digest({"component": component, "precision": precision, "target": target, "checkpoint": content_digest})
    directory = artifact_dir(home, spec.name, variant, component, precision, target)
    if _is_current(directory, recipe):
        return False
    with building(directory) as partial:
        shards, index = shards_of(source / component), index_of(source / component)
        require_space(partial, sum(path.stat().st_size for path in shards))
        for path in shards:
            _convert(path, partial / path.name, _DTYPES[precision])
        if index is not None:
            shutil.copyfile(index, partial / index.name)
        _write_config(source / component, partial, precision)
        weights = sum(path.stat().st_size for path in partial.glob("*.safetensors"))
        seal(
            partial,
            Manifest(
                family=spec.name,
                variant=variant,
                component=component,
                precision=precision,
                target=target,
                runtime="torch",
                versions=versions("torch", "diffusers", "transformers"),
                source=f"{origin}, {component} sha256 {content_digest[:16]}",
                recipe=recipe,
                memory=Memory(weights_bytes=weights, source="size of the files"),
            ),
        )
    return True


def export_pipeline(
    home: Path,
    source: Path,
    spec: FamilySpec,
    variant: str,
    target: Target,
    origin: str,
    folders: Collection[str],
    extra: Mapping[str, bytes] = MappingProxyType({}),
) -> bool:
    """Write the weightless pipeline artifact: its small `folders`, the components' configs; False if it was there already.

    `extra` are further files by name. A folder whose name ends with a question mark need not be there.
    """
    configs = [f"{component}/config.json" for component in spec.components]
    patterns = ["model_index.json", *configs, *(f"{folder.removesuffix('?')}/*" for folder in folders)]
    files = sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()})
    for needed in ("model_index.json", *(folder for folder in folders if not folder.endswith("?"))):
        if not (source / needed).exists():
            raise ExportError(f"{source / needed} is missing: a checkpoint must be in diffusers' layout")
    content = {str(path.relative_to(source)): path.read_bytes() for path in files} | dict(extra)
    recipe = digest({"files": {name: data.hex() for name, data in content.items()}, "target": target})
    directory = artifact_dir(home, spec.name, variant, PIPELINE, CONFIG, target)
    if _is_current(directory, recipe):
        return False
    with building(directory) as partial:
        for name, data in content.items():
            copy = partial / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
        seal(
            partial,
            Manifest(
                family=spec.name,
                variant=variant,
                component=PIPELINE,
                precision=CONFIG,
                target=target,
                runtime="none",
                versions=versions("diffusers", "transformers"),
                source=origin,
                recipe=recipe,
            ),
        )
    return True
