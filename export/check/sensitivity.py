"""Which layers of a family's transformer cost the most accuracy when quantized: `python -m export.check.sensitivity --help`.

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
from rich.console import Console
from rich.table import Table
from torch import nn

from export.check import whole
from export.check.accuracy import snr_db
from export.families import recipes
from export.quantize.calibration import simulate_fp8
from export.quantize.emulation import simulate_nvfp4
from export.run.errors import ExportError
from export.run.job import Job, Settings
from export.run.progress import Report
from export.run.recipe import Recipe, Velocity
from videosdgx.families import FAMILIES
from videosdgx.home import default_home

LEVELS = ("block", "layer-kind")


@dataclass(frozen=True)
class Subject:
    """What is measured: a transformer that was not run yet, the largest absolute input of each layer, and how far it is
    from the unquantized one: the velocity's SNR in dB of a model of that kind.
    """

    model: nn.Module
    input_amax: Mapping[str, float]
    snr: Callable[[nn.Module], float]


@torch.inference_mode()
def mean_snr(model: nn.Module, velocities: Sequence[Velocity]) -> float:
    """Mean SNR (dB) of the model's velocity."""
    return float(np.mean([snr_db(one.run(model), one.expected) for one in velocities]))


def prepare(job: Job, prompts: int) -> Subject:
    """Load the checkpoint, run it on as many prompts, and collect the scales' maxima as an export does.

    Raises:
        ExportError: the checkpoint is not usable.
    """
    way, variant = job.recipe.whole, job.variant
    assert way is not None and job.checkpoint is not None
    pipe = way.load(job.checkpoint, variant, job.source.tensors)
    velocities = way.velocities(pipe, way.verification_prompts(variant.name, prompts), variant)
    del pipe
    maxima = whole.collect(job, way.calibration_prompts(variant.name), lambda _: None)
    fresh = way.load(job.checkpoint, variant, job.source.tensors)
    return Subject(fresh.transformer, {name: maxima[name] for name in job.linears}, lambda model: mean_snr(model, velocities))


@dataclass(frozen=True)
class Row:
    """What one group of layers costs. SNR of the velocity in dB; `share` is of all their weights."""

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


def groups(layers: Sequence[str], split: Callable[[str], tuple[str, str]], by: str) -> dict[str, list[str]]:
    """The quantizable layers by group: `block` (blocks.0, ...) or `layer-kind` (attn1.to_q over all blocks, ...)."""
    found: dict[str, list[str]] = {}
    for name in layers:
        block, kind = split(name)
        found.setdefault(block if by == "block" else kind, []).append(name)
    return found


class Switches:
    """A transformer whose layers are quantized and back in an instant: everything is computed once, for all layers."""

    def __init__(self, model: nn.Module, precision: str, input_amax: Mapping[str, float]) -> None:
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


def measure(
    switches: Switches, snr: Callable[[nn.Module], float], of: Mapping[str, Sequence[str]], precision: str, by: str
) -> Result:
    """The cost of every group in `of`, the groups of the level `by`."""
    every = switches.layers
    sizes = {name: switches.model.get_submodule(name).weight.numel() for name in every}  # type: ignore[operator]
    total = sum(sizes.values())

    def quantized(chosen: Sequence[str]) -> float:
        switches.quantize(chosen)
        return snr(switches.model)

    everything = quantized(every)
    rows = []
    for group, members in of.items():
        alone = quantized(members)
        spared = quantized([name for name in every if name not in members])
        share = sum(sizes[name] for name in members) / total
        rows.append(Row(group, len(members), share, alone, spared, spared - everything))
    return Result(precision, by, everything, sorted(rows, key=lambda row: -row.gain_db))


HEADINGS = ("group", "layers", "weights", "only it quantized", "all but it quantized", "gain of sparing it")


def cells(row: Row) -> tuple[str, ...]:
    """One row of a table, under `HEADINGS`."""
    figures = (f"{row.alone_db:.1f} dB", f"{row.spared_db:.1f} dB", f"{row.gain_db:+.2f} dB")
    return (row.group, str(row.layers), f"{100 * row.share:.1f} %", *figures)


def markdown(recipe: Recipe, results: Sequence[Result], command: str, source: str) -> str:
    """The tables as a page; `command` makes it again, `source` says what was measured."""
    assert recipe.whole is not None
    lines = [f"# {recipe.spec.title}: what quantizing each group of layers costs", ""]
    lines += [f"Made by `{command}`; do not edit. {source}", ""]
    lines += [
        f"SNR of the velocity against the unquantized transformer, mean over {recipe.whole.points}"
        ". The last column is what a policy wins by leaving the group unquantized; "
        f"`export/families/{recipe.spec.name}/policy.py` decides by it.",
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
    family: Annotated[str, typer.Argument(help=f"Which family: {', '.join(FAMILIES)}.")],
    checkpoint: Annotated[str | None, typer.Option(help="Checkpoint in diffusers' layout; by default the variant's.")] = None,
    variant: Annotated[str, typer.Option(help="Whose size, steps and guidance to use.")] = "demo",
    precision: Annotated[str, typer.Option(help="nvfp4 or fp8.")] = "nvfp4",
    by: Annotated[str | None, typer.Option(help="layer-kind or block; both if not given.")] = None,
    prompts: Annotated[int, typer.Option(help="How many prompts' velocities are compared.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    page: Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file.")] = None,
) -> None:
    """Print what quantizing each block and each kind of layer costs, in dB of the velocity's signal-to-noise ratio.

    Example:

      python -m export.check.sensitivity wan21 --precision nvfp4 --markdown docs/wan21_sensitivity.md
    """
    known = ((family, tuple(FAMILIES), "family"), (precision, ("nvfp4", "fp8"), "precision"), (by or "block", LEVELS, "level"))
    for value, allowed, what in known:
        if value not in allowed:
            raise typer.BadParameter(f"unknown {what} {value!r}; there are: {', '.join(allowed)}")
    try:
        FAMILIES[family].variant(variant)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    began, console = time.monotonic(), Console()
    settings = Settings(default_home(), variant, precision, "cpu", checkpoint=checkpoint)
    with _one_line_errors():
        job = Job(recipes(family)["transformer"], settings, Report(Console(stderr=True)))
        subject = prepare(job, prompts)
        content = job.source.digest
    switches, split = Switches(subject.model, precision, subject.input_amax), job.recipe.whole.split  # type: ignore[union-attr]
    results = [
        measure(switches, subject.snr, groups(switches.layers, split, level), precision, level)
        for level in (LEVELS if by is None else (by,))
    ]
    if as_json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        _print(results, console)
        console.print(f"{time.monotonic() - began:.0f} s", highlight=False)
    if page is not None:
        given = [f"python -m export.check.sensitivity {family}"]
        given += [f"--checkpoint {job.source.origin}"] if checkpoint else []
        given += [f"--{name} {value}" for name, value in (("precision", precision), ("variant", variant))]
        given += ([f"--by {by}"] if by else []) + [f"--markdown {page.name if page.is_absolute() else page}"]
        page.parent.mkdir(parents=True, exist_ok=True)
        measured = f"Transformer sha256 {content[:16]}, {prompts} prompts."
        page.write_text(markdown(job.recipe, results, " ".join(given), measured) + "\n")


if __name__ == "__main__":
    typer.run(main)
