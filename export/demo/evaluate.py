"""Count how often a demo checkpoint shows what its prompts say: `python -m export.demo.evaluate --help`; `make judge`."""

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from export.demo.checkpoint import CHECKPOINTS
from export.demo.judging import Counts, Judging
from export.families import recipes
from export.run import exporter
from export.run.errors import ExportError
from export.run.job import Settings
from export.run.progress import Report
from videosdgx.artifacts import verify, write_atomically
from videosdgx.families import FAMILIES
from videosdgx.home import default_home

BEGIN, END = "<!-- judged: written by `make judge` -->", "<!-- end of what was judged -->"


@dataclass(frozen=True)
class Judged:
    """What one precision has reached: clips that are right, of those asked for, and seconds for a clip."""

    precision: str
    clips: Counts
    continued: Counts
    seconds: float


def judge_one(judging: Judging, family: str, checkpoint: Path, engine: Path | None, clips: int, continued: int) -> Judged:
    """Judge a checkpoint in fp32, or with the exported transformer in the folder `engine` in its place, as it is served.

    The prompts and the noise are the same for all.
    """
    torch.set_num_threads(judging.threads or torch.get_num_threads())
    pipe = judging.load(checkpoint)
    way = recipes(family)["transformer"].whole
    assert way is not None
    with way.by_engine(pipe, engine, verify(engine), judging.threads) if engine else nullcontext():
        began = time.monotonic()
        counts = judging.clips(pipe, clips)
        seconds = (time.monotonic() - began) / clips
        followed = judging.continued(pipe, continued) if judging.continued and continued else {}
    return Judged(verify(engine).precision if engine else "fp32", counts, followed, seconds)


def failures(judging: Judging, judged: list[Judged], parts: Mapping[str, float], clips: int) -> list[str]:
    """What is below its bar, each in a phrase; percentages of `clips`."""
    found = [
        f"{name} is {parts[name]:.2f}, at least {least:g} is required"
        for name, least in judging.least.items()
        if parts[name] < least
    ]
    by_precision = {one.precision: {name: 100 * count / clips for name, count in one.clips.items()} for one in judged}
    whole = by_precision.get("fp32", {})
    for name, bar in judging.bars.items():
        if name in whole and whole[name] < bar:
            found.append(f"fp32: {name} is {whole[name]:g} %, at least {bar:g} % is required")
    for name, by in judging.lost.items():
        for precision, most in by.items():
            if whole and precision in by_precision and whole[name] - by_precision[precision][name] > most:
                lost = whole[name] - by_precision[precision][name]
                found.append(f"{precision}: {name} loses {lost:g} points, at most {most:g} are allowed")
    return found


def rows(judged: list[Judged], clips: int, continued: int) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table."""
    headings = ["right", *(f"{one.precision}, of {clips}" for one in judged)]
    headings += [f"{one.precision}, of {continued} continued" for one in judged if one.continued]
    cells = [
        [name, *(str(one.clips[name]) for one in judged), *(str(one.continued[name]) for one in judged if one.continued)]
        for name in judged[0].clips
    ]
    return headings, cells


def write_card(card: Path, headings: list[str], cells: list[list[str]], parts: Mapping[str, float], about: str) -> None:
    """Put the table between the marks in the checkpoint's card.

    Raises:
        ValueError: the card has no marks.
    """
    text = card.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{card} has no place for the table: it needs the lines {BEGIN!r} and {END!r}")
    lines = [f"Unseen prompts, {about}:", "", "| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    lines += ["", *(f"- {name}: {value:.2f}" for name, value in parts.items())]
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    write_atomically(card, (before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after).encode())


def evaluate(
    family: Annotated[str, typer.Argument(help=f"Which demo: {', '.join(FAMILIES)}.")],
    clips: Annotated[int, typer.Option(min=1, help="How many unseen prompts.")] = 100,
    continued: Annotated[int, typer.Option(min=0, help="How many videos to continue, if the family can.")] = 20,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Judge an export in this precision too, for the CPU; it is made if it is not there. Repeatable."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder; by default the committed one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where the exports are; by default `judge` in the checkout's home.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the table into the checkpoint's README.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Generate clips of combinations that training never saw, judge them, and print how many are right.

    In fp32, and with the exported transformers of --precision, as they are served: quantized, on ONNX Runtime. Fails below the
    family's bars.

    Examples:

      python -m export.demo.evaluate wan21

      python -m export.demo.evaluate magi1 --precision fp8 --precision nvfp4 --card
    """
    if family not in FAMILIES:
        raise typer.BadParameter(f"unknown family {family!r}; there are: {', '.join(FAMILIES)}")
    judging: Judging = import_module(f"export.demo.{family}.evaluate").JUDGING
    folder = checkpoint or CHECKPOINTS / family
    where = (home or default_home() / "judge").resolve()
    engines: list[Path | None] = [None]
    try:
        for one in precision or []:
            own = Settings(where, "demo", one, "cpu", checkpoint=str(folder), clips=judging.export_clips)
            with Report(Console(stderr=True)) as report:
                engines.append(exporter.export(recipes(family)["transformer"], own, report))
    except ExportError as error:
        typer.secho(f"evaluate: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    judged = [judge_one(judging, family, folder, engine, clips, continued) for engine in engines]
    parts = judging.parts(judging.load(folder))
    missed = failures(judging, judged, parts, clips)
    headings, cells = rows(judged, clips, continued)
    if as_json:
        figures = [{"precision": one.precision, "seconds_per_clip": round(one.seconds, 3), **one.clips} for one in judged]
        print(json.dumps({"clips": clips, "judged": figures, "parts": dict(parts), "below_the_bars": missed}))
    else:
        table = Table(*headings, title=f"{family}: unseen prompts, {judging.about}, {judged[0].seconds:.2f} s per clip in fp32")
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        for name, value in parts.items():
            Console().print(f"{name}: {value:.2f}", highlight=False)
    if card:
        write_card(folder / "README.md", headings, cells, parts, judging.about)
    for text in missed:
        typer.secho(f"evaluate: {text}", fg="red", err=True)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(evaluate)
