"""ModelOpt: collecting scales while a pipeline runs, and simulating FP8 to check an engine against."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from export.run.errors import ExportError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ModelOpt prints a report of every quantizer, and warns of optional parts that are not installed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


_BOTH = ("weight_quantizer", "input_quantizer")
_OF_ATTENTION = {"q": "q_bmm_quantizer", "k": "k_bmm_quantizer", "v": "v_bmm_quantizer"}


def _config(layers: Iterable[str], attentions: Iterable[str] = (), quantizers: tuple[str, ...] = _BOTH) -> dict[str, object]:
    """ModelOpt's FP8 default (E4M3, one static scale per tensor) for `layers` and the inputs of `attentions` only."""
    names = [f"{layer}.{quantizer}" for layer in layers for quantizer in quantizers]
    names += [f"{attention}.{quantizer}" for attention in attentions for quantizer in _OF_ATTENTION.values()]
    entries: list[dict[str, object]] = [{"quantizer_name": "*", "enable": False}]
    entries += [{"quantizer_name": name, "cfg": {"num_bits": (4, 3), "axis": None}} for name in names]
    return {"quant_cfg": entries, "algorithm": "max"}


def _layer(model: nn.Module, name: str) -> Any:
    """The layer called `name`, which ModelOpt has given quantizers."""
    return model.get_submodule(name)


def input_maxima(
    model: nn.Module, layers: Iterable[str], run: Callable[[], None], attentions: Iterable[str] = ()
) -> dict[str, float]:
    """The largest absolute input of each of the linear `layers` while `run` exercises `model`, by ModelOpt.

    Both formats are scaled by this one figure, so one calibration serves FP8 and NVFP4. For each of the `attentions`
    (diffusers' attention modules) there are `<name>.q`, `.k` and `.v`: what goes into its products, rotated and not yet
    scaled. `model` is changed: it holds ModelOpt's quantizers afterwards.

    Raises:
        ExportError: a layer was never run.
    """
    names, attention_names = list(layers), list(attentions)
    with _quiet():
        import modelopt.torch.quantization as mtq

        mtq.quantize(model, _config(names, attention_names, ("input_quantizer",)), forward_loop=lambda _: run())
        maxima = {name: _layer(model, name).input_quantizer.amax for name in names}
        for name in attention_names:
            for part, quantizer in _OF_ATTENTION.items():
                maxima[f"{name}.{part}"] = getattr(_layer(model, name), quantizer).amax
    silent = [name for name, amax in maxima.items() if amax is None]
    if silent:
        raise ExportError(f"calibration never ran {silent[0]} ({len(silent)} of {len(maxima)} layers)")
    return {name: float(amax) for name, amax in maxima.items()}


def simulate_fp8(model: nn.Module, input_amax: Mapping[str, float]) -> None:
    """Change `model` so that its layers named in `input_amax` compute what ModelOpt's FP8 computes, in fp32."""
    with _quiet():
        import modelopt.torch.quantization as mtq

        mtq.quantize(model, _config(input_amax) | {"algorithm": None})
        for name, amax in input_amax.items():
            layer = _layer(model, name)
            layer.input_quantizer.amax = torch.tensor(amax)
            layer.weight_quantizer.amax = layer.weight.detach().abs().amax()
