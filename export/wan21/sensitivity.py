"""Which layers cost the most accuracy when quantized: `python -m export.wan21.sensitivity --help`.

The velocity of the unquantized transformer on its own inputs is the measure. One group of layers at a time is quantized
alone, and is left alone while all others are quantized; the second says what a policy gains by keeping the group in a
higher format. Everything is simulated in fp32 on the CPU, so a checkpoint needs 8 bytes per parameter of memory (its
own weights and the quantized ones): the demo takes a minute, the full-size models need a larger machine and hours.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import WanPipeline, WanTransformer3DModel
from rich.console import Console
from rich.table import Table

from export import checkpoint as checkpoints
from export.accuracy import snr_db
from export.calibrate import input_maxima, simulate_fp8
from export.emulation import simulate_nvfp4
from export.errors import ExportError
from export.wan21 import policy
from export.wan21.lowered import WanConfig
from export.wan21.pipeline import load_pipeline, load_transformer, make_clips, recorded
from export.wan21.prompts import calibration_prompts, verification_prompts
from export.wan21.verify import SIGMAS
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.spec import SPEC

Call = tuple[dict[str, np.ndarray], np.ndarray]
LEVELS = ("block", "layer-kind")


@dataclass(frozen=True)
class Row:
    """What one group of layers costs. SNR of the velocity in dB, mean over `SIGMAS`; `share` is of all their weights."""

    group: str
    layers: int
    share: float
    alone_db: float  # only this group is quantized
    spared_db: float  # all but this group are quantized
    gain_db: float  # by how much sparing the group raises the SNR of all quantized


@dataclass(frozen=True)
class Result:
    """All groups of one level, the most costly first."""

    precision: str
    by: str
    all_db: float
    rows: list[Row]


def groups(config: WanConfig, by: str) -> dict[str, list[str]]:
    """The quantizable layers by group: `block` (blocks.0, ...) or `layer-kind` (attn1.to_q over all blocks, ...)."""
    found: dict[str, list[str]] = {}
    for name in policy.all_linears(config):
        _, index, kind = name.split(".", 2)
        found.setdefault(f"blocks.{index}" if by == "block" else kind, []).append(name)
    return found


class Switches:
    """A transformer whose layers are quantized and back in an instant: everything is computed once, for all layers."""

    def __init__(self, model: WanTransformer3DModel, precision: str, input_amax: Mapping[str, float]) -> None:
        """Changes `model`; `input_amax` names the layers and the largest absolute input of each."""
        self.model, self.layers = model, list(input_amax)
        self._own: dict[str, Callable[..., Any]] = {}
        if precision == "fp8":
            simulate_fp8(model, input_amax)
        else:
            simulate_nvfp4(model, input_amax)
            self._own = {name: self._layer(name).forward for name in self.layers}

    def _layer(self, name: str) -> Any:
        return self.model.get_submodule(name)

    def quantize(self, chosen: Sequence[str]) -> None:
        """Quantize the layers in `chosen`, and no other."""
        for name in self.layers:
            layer = self._layer(name)
            if not self._own:
                for quantizer in (layer.weight_quantizer, layer.input_quantizer):
                    quantizer.enable() if name in chosen else quantizer.disable()
            elif name in chosen:
                layer.forward = self._own[name]
            else:
                layer.__dict__.pop("forward", None)

    @torch.inference_mode()
    def snr(self, chosen: Sequence[str], calls: Sequence[Call]) -> float:
        """Mean SNR (dB) of the velocity over `calls` with `chosen` quantized."""
        self.quantize(chosen)
        values = []
        for inputs, velocity in calls:
            named = {name: torch.from_numpy(array) for name, array in inputs.items()}
            values.append(snr_db(self.model(**named, return_dict=False)[0].numpy(), velocity))
        return float(np.mean(values))


def record(pipe: WanPipeline, prompts: list[str], variant: Variant) -> list[Call]:
    """(inputs, velocity) of the unquantized pipeline's transformer at each of `SIGMAS`, for all prompts at once."""
    calls: list[Call] = []
    with recorded(pipe.transformer, calls):
        make_clips(pipe, prompts, variant, lambda _: None)
    return [min(calls, key=lambda call: abs(float(call[0]["timestep"][0]) - 1000 * sigma)) for sigma in SIGMAS]


def measure(switches: Switches, config: WanConfig, precision: str, by: str, calls: Sequence[Call]) -> Result:
    """The cost of every group of one level."""
    every = switches.layers
    sizes = {name: switches.model.get_submodule(name).weight.numel() for name in every}
    total = sum(sizes.values())
    everything = switches.snr(every, calls)
    rows = []
    for group, members in groups(config, by).items():
        alone = switches.snr(members, calls)
        spared = switches.snr([name for name in every if name not in members], calls)
        share = sum(sizes[name] for name in members) / total
        rows.append(Row(group, len(members), share, alone, spared, spared - everything))
    return Result(precision, by, everything, sorted(rows, key=lambda row: -row.gain_db))


def _maxima(pipe: WanPipeline, config: WanConfig, variant: Variant) -> dict[str, float]:
    """The scales' maxima as an export collects them; changes the pipeline's transformer."""
    prompts = calibration_prompts(variant.name)

    def run() -> None:
        make_clips(pipe, prompts, variant, lambda _: None)

    return input_maxima(pipe.transformer, policy.all_linears(config), run)


def sensitivity(source: Path, variant: Variant, precision: str, levels: Sequence[str], prompts: int) -> list[Result]:
    """Measure the checkpoint in `source` (diffusers' layout) at each of `levels`.

    Raises:
        ExportError: the checkpoint is not usable.
    """
    config = WanConfig.from_dict(checkpoints.config(source / "transformer"))
    pipe = load_pipeline(source, variant)
    calls = record(pipe, verification_prompts(variant.name, prompts), variant)
    maxima = _maxima(pipe, config, variant)
    del pipe  # the calibrated transformer has served
    switches = Switches(load_transformer(source / "transformer"), precision, maxima)
    return [measure(switches, config, precision, by, calls) for by in levels]


HEADINGS = ("group", "layers", "weights", "only it quantized", "all but it quantized", "gain of sparing it")


def cells(row: Row) -> tuple[str, ...]:
    """One row of a table, under `HEADINGS`."""
    figures = (f"{row.alone_db:.1f} dB", f"{row.spared_db:.1f} dB", f"{row.gain_db:+.2f} dB")
    return (row.group, str(row.layers), f"{100 * row.share:.1f} %", *figures)


def markdown(results: Sequence[Result], command: str, source: str) -> str:
    """The tables as a page; `command` makes it again, `source` says what was measured."""
    lines = ["# Wan 2.1: what quantizing each group of layers costs", ""]
    lines += [f"Made by `{command}`; do not edit. {source}", ""]
    lines += [
        "SNR of the velocity against the unquantized transformer, mean over the noise levels "
        + ", ".join(f"{sigma:g}" for sigma in SIGMAS)
        + ". The last column is what a policy wins by leaving the group unquantized; `export/wan21/policy.py` decides by it.",
        "",
    ]
    for result in results:
        lines += [f"## {result.precision.upper()}, by {result.by}: {result.all_db:.1f} dB with all quantized", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in result.rows]
        lines.append("")
    return "\n".join(lines)


def _print(results: Sequence[Result], console: Console) -> None:
    for result in results:
        table = Table(title=f"{result.precision}, by {result.by}: {result.all_db:.1f} dB with all quantized")
        table.add_column(HEADINGS[0])
        for heading in HEADINGS[1:]:
            table.add_column(heading, justify="right")
        for row in result.rows:
            table.add_row(*cells(row))
        console.print(table)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ExportError as error:
        Console(stderr=True).print(f"sensitivity failed: {error}", style="red", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from None


def main(
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint in diffusers' layout; by default the variant's.")] = None,
    variant: Annotated[str, typer.Option(help="Whose size, steps and guidance to use.")] = "demo",
    precision: Annotated[str, typer.Option(help="nvfp4 or fp8.")] = "nvfp4",
    by: Annotated[str | None, typer.Option(help="layer-kind or block; both if not given.")] = None,
    prompts: Annotated[int, typer.Option(help="How many prompts' velocities are compared.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    page: Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file.")] = None,
) -> None:
    """Print what quantizing each block and each kind of layer costs, in dB of the velocity's signal-to-noise ratio."""
    for value, known, what in ((precision, ("nvfp4", "fp8"), "precision"), (by or "block", LEVELS, "level")):
        if value not in known:
            raise typer.BadParameter(f"unknown {what} {value!r}; there are: {', '.join(known)}")
    if variant not in SPEC.variants:
        raise typer.BadParameter(f"unknown variant {variant!r}; there are: {', '.join(SPEC.variants)}")
    began = time.monotonic()
    chosen = SPEC.variants[variant]
    with _one_line_errors():
        source = checkpoints.resolve(checkpoint or chosen.checkpoint)
        results = sensitivity(source, chosen, precision, LEVELS if by is None else (by,), prompts)
        content = checkpoints.digest(source / "transformer")
    console = Console()
    if as_json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        _print(results, console)
        console.print(f"{time.monotonic() - began:.0f} s", highlight=False)
    if page is not None:
        given = ["python -m export.wan21.sensitivity"]
        given += [f"--checkpoint {source.name}"] if checkpoint else []
        given += [f"--{name} {value}" for name, value in (("precision", precision), ("variant", variant))]
        given += ([f"--by {by}"] if by else []) + [f"--markdown {page.name if page.is_absolute() else page}"]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(markdown(results, " ".join(given), f"Transformer sha256 {content[:16]}, {prompts} prompts.") + "\n")


if __name__ == "__main__":
    typer.run(main)
