"""LoRA files fused into a checkpoint before anything else sees it, one tensor at a time.

A LoRA file holds, for some layers, a low-rank change `up @ down` of the weight (scaled by alpha / rank), and in some
files whole differences of weights and biases. The spellings found in the wild differ in prefix, in layer names (the
family's `original_name` knows the model's first names) and in suffix; all are read here. Nothing but the mapped file is
held: the changes of a tensor are added, in fp32, when that tensor is read.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.run.errors import ExportError
from videosdgx.artifacts import FusedLora, sha256_file

_PREFIXES = ("base_model.model.", "model.", "diffusion_model.", "transformer.")
# What follows a layer's name, and the part of a change that it is.
_PARTS = {
    re.compile(r"\.(lora_down|lora_A(\.default(_\d+)?)?)\.weight$"): "down",
    re.compile(r"\.(lora_up|lora_B(\.default(_\d+)?)?)\.weight$"): "up",
    re.compile(r"\.lora_B(\.default(_\d+)?)?\.bias$"): "up_bias",
    re.compile(r"\.alpha$"): "alpha",
    re.compile(r"\.(diff_m|modulation\.diff)$"): "scale_shift_table",
    re.compile(r"\.diff$"): "weight",
    re.compile(r"\.diff_b$"): "bias",
}


@dataclass(frozen=True)
class LoraFile:
    """A file and how much of it is wanted (1: as trained)."""

    path: Path
    scale: float = 1.0


def parse(text: str) -> LoraFile:
    """`FILE` or `FILE:scale`.

    Raises:
        ExportError: the scale is not a finite number.
    """
    name, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return LoraFile(Path(text))
    try:
        scale = float(tail)
    except ValueError:
        return LoraFile(Path(text))
    if not math.isfinite(scale):
        raise ExportError(f"the scale {tail} of the LoRA {name} is not a finite number")
    return LoraFile(Path(name), scale)


@dataclass
class _Change:
    """What one file does to one layer: the names of its tensors by part, and the number alpha / rank."""

    parts: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0


def _split(key: str) -> tuple[str, str] | None:
    """(layer, part) of a tensor's name; nothing if its ending is not known."""
    for pattern, part in _PARTS.items():
        if found := pattern.search(key):
            return key[: found.start()], part
    return None


def _spellings(layers: Iterable[str], original_name: Callable[[str], str]) -> dict[str, str]:
    """Every name that a layer may have in a file (without prefix) -> its name in the checkpoint."""
    known: dict[str, str] = {}
    for layer in layers:
        original = original_name(layer)
        for name in (original, layer):
            flat = name.replace(".", "_")
            known |= {name: layer, f"lora_unet_{flat}": layer, f"lora_unet__{flat}": layer}
    return known


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ExportError(f"no LoRA file at {path}")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ExportError(
            f"{path} is not a whole safetensors file ({error}): download it again; a pickle is not read, it can run code"
        ) from None


class _Opened:
    """One mapped file with its changes by layer (names of the checkpoint), checked against the checkpoint's shapes."""

    def __init__(self, wanted: LoraFile, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, str]) -> None:
        self.path, self.scale = wanted.path, wanted.scale
        self.file = _open(wanted.path)
        self.changes: dict[str, _Change] = {}
        for key in sorted(self.file.keys()):
            layer, part = self._recognised(key, known)
            self.changes.setdefault(layer, _Change()).parts[part] = key
        if not self.changes:
            raise ExportError(f"the LoRA {self.path} holds no tensors")
        settings = self._settings()
        for layer, change in self.changes.items():
            self._check(layer, change, shapes)
            change.factor = self._factor(layer, change, settings)

    def _recognised(self, key: str, known: Mapping[str, str]) -> tuple[str, str]:
        found = _split(key)
        if found is None:
            kinds = "lora_A/lora_B, lora_down/lora_up, alpha, diff, diff_b and diff_m are"
            raise ExportError(f"the LoRA {self.path} has a tensor {key} of a kind that is not known here ({kinds})")
        layer, part = found
        if (name := known.get(_without_prefix(layer))) is None:
            raise ExportError(f"the LoRA {self.path} changes a layer {layer} that this model does not have")
        return name, part

    def _settings(self) -> dict[str, Any]:
        """PEFT's settings of the transformer, which diffusers writes into the file's header."""
        text = (self.file.metadata() or {}).get("lora_adapter_metadata", "{}")
        try:
            content = json.loads(text)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ExportError(f"the header of the LoRA {self.path} has settings that are not a JSON object")
        return {name.removeprefix("transformer."): value for name, value in content.items()}

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(key).get_shape())

    def _check(self, layer: str, change: _Change, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """That the parts belong together and have the shapes that the layer's parameters ask for."""
        parts = change.parts
        for one, other in (("down", "up"), ("up", "down"), ("up_bias", "up")):
            if one in parts and other not in parts:
                raise ExportError(f"the LoRA {self.path} has {parts[one]} without the {other} matrix that belongs to it")
        if parts.keys() <= {"alpha"}:
            raise ExportError(f"the LoRA {self.path} has an alpha for {layer} and no matrices")
        if "up" in parts:
            down, up = self._shape(parts["down"]), self._shape(parts["up"])
            if len(down) < 2 or len(up) < 2 or math.prod(up[1:]) != down[0]:
                raise ExportError(f"the ranks of {parts['down']} {down} and {parts['up']} {up} of the LoRA {self.path} differ")
            wanted = shapes.get(f"{layer}.weight", ())
            if (up[0], math.prod(down[1:])) != (*wanted[:1], math.prod(wanted[1:])):
                raise ExportError(
                    f"the LoRA {self.path} changes {layer} by {up} x {down}, its weight has the shape {wanted}: "
                    "it is for another model"
                )
        for part, parameter in (("weight",) * 2, ("bias",) * 2, ("up_bias", "bias"), ("scale_shift_table",) * 2):
            if part in parts:
                self._check_difference(parts[part], f"{layer}.{parameter}" if layer else parameter, shapes)

    def _check_difference(self, key: str, parameter: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if parameter not in shapes:
            raise ExportError(f"the LoRA {self.path} has {key} for {parameter}, which this model does not have")
        # Some files keep a table [1, 6, d] as [6, d].
        given, wanted = self._shape(key), shapes[parameter]
        if math.prod(given) != math.prod(wanted) or given[-1:] != wanted[-1:]:
            raise ExportError(
                f"the LoRA {self.path} changes {parameter} of shape {wanted} by {key} of shape {given}: it is for another model"
            )

    def _factor(self, layer: str, change: _Change, settings: Mapping[str, Any]) -> float:
        """alpha / rank; without any alpha 1, as everywhere."""
        if "up" not in change.parts:
            return 1.0
        if settings.get("use_dora"):
            raise ExportError(f"the LoRA {self.path} is a DoRA, which cannot be added to weights")
        rank = self._shape(change.parts["down"])[0]
        alpha = settings.get("lora_alpha") or rank
        for pattern, own in (settings.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                alpha = own
        if "alpha" in change.parts:
            alpha = float(self.file.get_tensor(change.parts["alpha"]))
        return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def _read(self, change: _Change, part: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(change.parts[part])
        return tensor.float()

    def fused(self, name: str, tensor: Tensor) -> Tensor:
        """The parameter `name` with this file's change added, in fp32; `tensor` itself if the file leaves it alone."""
        layer, _, parameter = name.rpartition(".")
        change = self.changes.get(layer, _Change())
        if parameter in change.parts:
            difference = self._read(change, parameter).reshape(tensor.shape)
            tensor = torch.add(tensor.float(), difference, alpha=self.scale)
        if parameter == "weight" and "up" in change.parts:
            up, down = self._read(change, "up").flatten(1), self._read(change, "down").flatten(1)
            sums = torch.addmm(tensor.float().flatten(1), up, down, alpha=self.scale * change.factor)
            tensor = sums.reshape(tensor.shape)
        if parameter == "bias" and "up_bias" in change.parts:
            tensor = torch.add(tensor.float(), self._read(change, "up_bias"), alpha=self.scale * change.factor)
        return tensor


class Loras:
    """Some LoRA files for one model, opened and checked; an empty list changes nothing."""

    def __init__(
        self, files: Iterable[LoraFile], shapes: Mapping[str, tuple[int, ...]], original_name: Callable[[str], str]
    ) -> None:
        """Open the files.

        Args:
            files: which, and how strong; their changes are added up.
            shapes: shape of every parameter of the model by its name in the checkpoint.
            original_name: a layer's name in the model's first code, from its name in the checkpoint.

        Raises:
            ExportError: a file is missing, no safetensors, or does not fit the model, in words that say where.
        """
        known = _spellings({name.rpartition(".")[0] for name in shapes}, original_name)
        self._opened = [_Opened(wanted, shapes, known) for wanted in files]

    def facts(self) -> list[FusedLora]:
        """What a manifest says of them: name, SHA-256, scale, number of layers changed."""
        return [
            FusedLora(name=lora.path.name, sha256=sha256_file(lora.path), scale=lora.scale, layers=len(lora.changes))
            for lora in self._opened
        ]

    def fused(self, name: str, tensor: Tensor) -> Tensor:
        """A checkpoint's tensor with the changes added.

        A changed tensor comes out in fp32 (a change is often smaller than bf16's last bit); the others as they are.
        """
        for lora in self._opened:
            tensor = lora.fused(name, tensor)
        return tensor


class FusedTensors(Mapping[str, Tensor]):
    """A checkpoint's tensors by name with the changes added, one at a time when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], loras: Loras) -> None:
        self._tensors, self._loras = tensors, loras

    def __getitem__(self, name: str) -> Tensor:
        return self._loras.fused(name, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
