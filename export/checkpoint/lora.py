"""LoRA files fused into a checkpoint before anything else sees it, one tensor at a time.

A LoRA file holds, for some layers, a low-rank change `up @ down` of the weight (scaled by alpha / rank), and in some
files whole differences of weights and biases. The spellings found in the wild differ in prefix, in layer names (the
family's `original_name` knows the model's first names) and in suffix. Those whose meaning is certain are read here, any other
is refused by name. What a file says twice of a layer, as two adapters or in two spellings, is two changes: they are added.
Nothing but the mapped file is held: the changes of a tensor are added, in fp32, when that tensor is read.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from export.checkpoint.finite import first_not_finite
from export.run.errors import ExportError
from videosdgx.artifacts import FusedLora, sha256_file

# In front of a layer's name with dots; several may follow each other.
_PREFIX = re.compile(r"((base_model\.model|module|_orig_mod|model|diffusion_model|transformer|unet|dit|pipe)\.)+")
# In front of a layer's name with underscores (or dots) in trainers' files: kohya's, OneTrainer's, LyCORIS'.
_TRAINER = re.compile(r"(lora_unet|lora_transformer|lycoris)(__|_|\.)")
# What follows a layer's name, and the part of a change that it is. Parts belong together that have the same `holder` and
# `adapter`; PEFT puts the adapter's name, if there is one, between `lora_A` and `weight`.
_PARTS = {
    re.compile(r"\.lora_down\.weight$"): "down",
    re.compile(r"\.lora_up\.weight$"): "up",
    re.compile(r"\.lora_A(?P<adapter>\.[^.]+)?\.weight$"): "down",
    re.compile(r"\.lora_B(?P<adapter>\.[^.]+)?\.weight$"): "up",
    re.compile(r"\.lora_B(?P<adapter>\.[^.]+)?\.bias$"): "up_bias",
    re.compile(r"\.(?P<holder>lora|lora_linear_layer)\.down\.weight$"): "down",
    re.compile(r"\.(?P<holder>lora|lora_linear_layer)\.up\.weight$"): "up",
    re.compile(r"\.alpha$"): "alpha",
    re.compile(r"\.(?P<holder>diff_m|modulation\.diff)$"): "scale_shift_table",
    re.compile(r"\.diff$"): "weight",
    re.compile(r"\.diff_b$"): "bias",
}
# safetensors' names of the dtypes that hold numbers as they are; integers are codes that some scale belongs to.
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_NUMBERS = (*_FLOATS, "I64", "I32", "I16")
# Ways to start a training that change the model's own weights: what was learned does not belong to those of the checkpoint.
_OTHER_STARTS = ("pissa", "olora", "corda", "loftq")


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
    """One change of one layer: the names of its tensors by part, and the number alpha / rank."""

    parts: dict[str, str]
    factor: float = 1.0


@dataclass(frozen=True)
class _Spelled:
    """How a file spells what belongs together: a layer's name as it is there, and the kind and adapter of its tensors."""

    layer: str
    kind: str = ""


def _split(key: str) -> tuple[_Spelled, str] | None:
    """What a tensor's name belongs to, and the part that it is; nothing if its ending is not known."""
    for pattern, part in _PARTS.items():
        if found := pattern.search(key):
            named = found.groupdict()
            kind = "" if part == "alpha" else f"{_kind(part, key)}{named.get('holder') or ''}{named.get('adapter') or ''}"
            return _Spelled(key[: found.start()], kind), part
    return None


def _kind(part: str, key: str) -> str:
    """Matrices pair up within their spelling; differences stand alone."""
    if part in ("down", "up", "up_bias"):
        return "AB" if ".lora_A" in key or ".lora_B" in key else "down and up"
    return "differences"


class _Names:
    """The names that a model's layers have in files."""

    def __init__(self, layers: Iterable[str], original_name: Callable[[str], str]) -> None:
        self._dotted: dict[str, set[str]] = defaultdict(set)
        self._flat: dict[str, set[str]] = defaultdict(set)
        for layer in layers:
            for name in (original_name(layer), layer):
                self._dotted[name].add(layer)
                self._flat[name.replace(".", "_")].add(layer)

    def meant(self, name: str) -> set[str]:
        """The layers of the checkpoint that `name` of a file can mean: none, one, or several."""
        if trainer := _TRAINER.match(name):
            bare = name[trainer.end() :]
            return self._dotted.get(bare, set()) | self._flat.get(bare, set())
        prefix = _PREFIX.match(name)
        return self._dotted.get(name) or self._dotted.get(name[prefix.end() :] if prefix else name, set())


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ExportError(f"no LoRA file at {path}")
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ExportError(
            f"{path} is not a whole safetensors file ({error}): download it again; a pickle is not read, it can run code"
        ) from None


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _number(what: str, value: Any) -> float:
    """A number of the settings; text is none.

    Raises:
        ExportError: it is something else, not finite, or zero, which would switch the change off.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not value:
        raise ExportError(f"{what} is {value!r}, it must be a number other than 0")
    return float(value)


class _Settings:
    """PEFT's settings of the transformer, which diffusers writes into the file's header; none: those of every other file."""

    def __init__(self, path: Path, metadata: Mapping[str, str] | None) -> None:
        """
        Raises:
            ExportError: they are not what PEFT writes, or say that the file cannot be added to weights.
        """
        self._of = f"the header of the LoRA {path}"
        try:
            content = json.loads((metadata or {}).get("lora_adapter_metadata", "{}"))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ExportError(f"{self._of} has settings that are not a JSON object")
        self._values = {name.removeprefix("transformer."): value for name, value in content.items()}
        if self._switch("use_dora"):
            raise ExportError(f"the LoRA {path} is a DoRA, which cannot be added to weights")
        if self._switch("fan_in_fan_out"):
            raise ExportError(f"{self._of} says fan_in_fan_out: its matrices are transposed, which is not known here")
        start = self._values.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_OTHER_STARTS):
            raise ExportError(f"{self._of} says init_lora_weights {start!r}: it belongs to weights other than the checkpoint's")
        self._rank, self._alpha = (self._values.get(name) for name in ("r", "lora_alpha"))
        self._ranks, self._alphas = self._patterns("rank_pattern"), self._patterns("alpha_pattern")
        self._root = self._switch("use_rslora")

    @property
    def say_something(self) -> bool:
        """Whether they decide how strong a change is."""
        return self._alpha is not None or bool(self._alphas) or self._root

    def _switch(self, name: str) -> bool:
        value = self._values.get(name) or False
        if not isinstance(value, bool):
            raise ExportError(f"{self._of} says {name} {value!r}, it must be true or false")
        return value

    def _patterns(self, name: str) -> list[tuple[re.Pattern[str], Any]]:
        content = self._values.get(name) or {}
        if not isinstance(content, dict):
            raise ExportError(f"{self._of} has a {name} that is not a JSON object")
        found = []
        for pattern, value in content.items():
            try:
                found.append((re.compile(rf"(.*\.)?({pattern})$"), value))
            except re.error as error:
                raise ExportError(f"{self._of} has a {name} with {pattern!r}, which is no pattern: {error}") from None
            _number(f"{name} of {pattern!r} in {self._of}", value)
        return found

    def strength(self, layer: str, rank: int, stored: float | None) -> float:
        """alpha / rank of a layer (its name in the checkpoint); without any alpha 1, as everywhere.

        `stored` is the alpha that the file has as a tensor, which stands above the settings.
        """
        said = self._first(self._ranks, layer, self._rank)
        if said is not None and _number(f"the rank of {layer} in {self._of}", said) != rank:
            raise ExportError(f"{self._of} says that {layer} has rank {said}, its matrices have {rank}")
        alpha = stored
        if alpha is None and (set_here := self._first(self._alphas, layer, self._alpha)) is not None:
            alpha = _number(f"lora_alpha in {self._of}", set_here)
        return (rank if alpha is None else alpha) / (math.sqrt(rank) if self._root else rank)

    @staticmethod
    def _first(patterns: list[tuple[re.Pattern[str], Any]], layer: str, otherwise: Any) -> Any:
        """The value of the first pattern that fits, as PEFT looks them up."""
        return next((value for pattern, value in patterns if pattern.match(layer)), otherwise)


class _Opened:
    """One mapped file with its changes by layer (names of the checkpoint), checked against the checkpoint's shapes."""

    def __init__(self, wanted: LoraFile, shapes: Mapping[str, tuple[int, ...]], names: _Names) -> None:
        self.path, self.scale = wanted.path, wanted.scale
        self.file = _open(wanted.path)
        self.changes: dict[str, list[_Change]] = defaultdict(list)
        spelled: dict[_Spelled, _Change] = {}
        alphas: dict[str, str] = {}  # by the layer's name in the file
        layers: dict[str, str] = {}
        for key in sorted(self.file.keys()):
            belongs, part = self._recognised(key)
            layers[belongs.layer] = self._layer(belongs.layer, names)
            if part == "alpha":
                alphas[belongs.layer] = key
            else:
                spelled.setdefault(belongs, _Change({})).parts[part] = key
        if not layers:
            raise ExportError(f"the LoRA {self.path} holds no tensors")
        for belongs, change in spelled.items():
            self._check(layers[belongs.layer], change, shapes)
            self.changes[layers[belongs.layer]].append(change)
        settings = _Settings(self.path, self.file.metadata())
        self._weigh({one: change for one, change in spelled.items() if "up" in change.parts}, alphas, layers, settings)
        for change in spelled.values():
            for key in change.parts.values():
                self._check_values(key)

    def _recognised(self, key: str) -> tuple[_Spelled, str]:
        found = _split(key)
        if found is None:
            kinds = "lora_A/lora_B, lora_down/lora_up, alpha, diff, diff_b and diff_m are"
            raise ExportError(f"the LoRA {self.path} has a tensor {key} of a kind that is not known here ({kinds})")
        return found

    def _layer(self, name: str, names: _Names) -> str:
        meant = sorted(names.meant(name))
        if not meant:
            raise ExportError(f"the LoRA {self.path} changes a layer {name} that this model does not have")
        if len(meant) > 1:
            raise ExportError(f"the LoRA {self.path} changes a layer {name}, which can mean {' or '.join(meant)}")
        return meant[0]

    def _weigh(
        self, pairs: Mapping[_Spelled, _Change], alphas: Mapping[str, str], layers: Mapping[str, str], settings: _Settings
    ) -> None:
        """Give every pair of matrices its alpha / rank."""
        adapters = {one.kind for one in pairs}
        if len(adapters) > 1 and settings.say_something:
            raise ExportError(f"the LoRA {self.path} has several adapters and the settings of one: nobody can tell of which")
        numbers = {name: self._alpha(key) for name, key in alphas.items()}
        for name, key in alphas.items():
            of_it = [change for one, change in pairs.items() if one.layer == name]
            if not of_it:
                raise ExportError(f"the LoRA {self.path} has an alpha for {layers[name]} and no matrices ({key})")
            if len(of_it) > 1:
                several = " and ".join(change.parts["down"] for change in of_it)
                raise ExportError(f"the LoRA {self.path} has one {key} and both {several}: nobody can tell which it belongs to")
        for one, change in pairs.items():
            rank = self._shape(change.parts["down"])[0]
            change.factor = settings.strength(layers[one.layer], rank, numbers.get(one.layer))

    def _alpha(self, key: str) -> float:
        """The number that a tensor is."""
        shape, dtype = self._shape(key), self.file.get_slice(key).get_dtype()
        if math.prod(shape) != 1 or dtype not in _NUMBERS:
            raise ExportError(f"the LoRA {self.path} has {key} of shape {shape} and dtype {dtype}, it must be one number")
        return _number(f"{key} of the LoRA {self.path}", float(self.file.get_tensor(key)))

    def _shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(key).get_shape())

    def _check(self, layer: str, change: _Change, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """That the parts belong together and have the shapes and dtypes that the layer's parameters ask for."""
        parts = change.parts
        for key in parts.values():
            if (dtype := self.file.get_slice(key).get_dtype()) not in _FLOATS:
                raise ExportError(f"the LoRA {self.path} has {key} in {dtype} without a scale: it must be in floating point")
        for one, other in (("down", "up"), ("up", "down"), ("up_bias", "up")):
            if one in parts and other not in parts:
                raise ExportError(f"the LoRA {self.path} has {parts[one]} without the {other} matrix that belongs to it")
        if "up" in parts:
            self._check_matrices(layer, parts["down"], parts["up"], shapes.get(f"{layer}.weight", ()))
        for part, parameter in (("weight",) * 2, ("bias",) * 2, ("up_bias", "bias"), ("scale_shift_table",) * 2):
            if part in parts:
                self._check_difference(parts[part], f"{layer}.{parameter}" if layer else parameter, shapes)

    def _check_matrices(self, layer: str, down_key: str, up_key: str, wanted: tuple[int, ...]) -> None:
        down, up = self._shape(down_key), self._shape(up_key)
        if len(down) < 2 or len(up) < 2 or _without_ones(up[1:]) != _without_ones(down[:1]):
            raise ExportError(f"the ranks of {down_key} {down} and {up_key} {up} of the LoRA {self.path} differ")
        if not down[0]:
            raise ExportError(f"{down_key} {down} of the LoRA {self.path} has rank 0: it changes nothing")
        # A convolution's kernel may be written out in one axis.
        fits = _without_ones(down[1:]) in (_without_ones(wanted[1:]), _without_ones((math.prod(wanted[1:]),)))
        if up[:1] != wanted[:1] or not fits:
            raise ExportError(
                f"the LoRA {self.path} changes {layer} by {up} x {down} ({down_key}), its weight has the shape {wanted}: "
                "it is for another model"
            )

    def _check_difference(self, key: str, parameter: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if parameter not in shapes:
            raise ExportError(f"the LoRA {self.path} has {key} for {parameter}, which this model does not have")
        # Some files keep a table [1, 6, d] as [6, d].
        given, wanted = self._shape(key), shapes[parameter]
        if _without_ones(given) != _without_ones(wanted):
            raise ExportError(
                f"the LoRA {self.path} changes {parameter} of shape {wanted} by {key} of shape {given}: it is for another model"
            )

    def _check_values(self, key: str) -> None:
        if (found := first_not_finite(self.file.get_tensor(key).float())) is not None:
            raise ExportError(f"the LoRA {self.path} has {key} with {found}: the file is damaged, or its training failed")

    def _read(self, change: _Change, part: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(change.parts[part])
        return tensor.float()

    def fused(self, name: str, tensor: Tensor) -> Tensor:
        """The parameter `name` with this file's changes added, in fp32; `tensor` itself if the file leaves it alone."""
        layer, _, parameter = name.rpartition(".")
        original = tensor
        for change in self.changes.get(layer, ()):
            tensor = self._added(parameter, tensor, change)
        if tensor is not original and (found := first_not_finite(tensor)) is not None:
            raise ExportError(f"the LoRA {self.path} times {self.scale:g} makes {name} {found}: choose a smaller scale")
        return tensor

    def _added(self, parameter: str, tensor: Tensor, change: _Change) -> Tensor:
        if parameter in change.parts:
            difference = self._read(change, parameter).reshape(tensor.shape)
            tensor = torch.add(tensor.float(), difference, alpha=self.scale)
        if parameter == "weight" and "up" in change.parts:
            up, down = self._read(change, "up").flatten(1), self._read(change, "down").flatten(1)
            sums = torch.addmm(tensor.float().flatten(1), up, down, alpha=self.scale * change.factor)
            tensor = sums.reshape(tensor.shape)
        if parameter == "bias" and "up_bias" in change.parts:
            tensor = torch.add(
                tensor.float(), self._read(change, "up_bias").reshape(tensor.shape), alpha=self.scale * change.factor
            )
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
        names = _Names({name.rpartition(".")[0] for name in shapes}, original_name)
        self._opened = [_Opened(wanted, shapes, names) for wanted in files]

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
