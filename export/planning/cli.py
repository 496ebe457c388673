"""The command `videosdgx plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer

_DEFAULT_MEMORY, _DEFAULT_RESERVE = "128GB", "16GB"  # the Spark's; what its owner keeps for everything but models
_SHOWN = ("bf16", "fp8", "nvfp4")  # fp16 takes the memory and the time of bf16
_MOST_CONCURRENCY = 64


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FAMILY[:VARIANT[:PRECISION]]]...",
            help="Such as wan21:t2v-14b:fp8. Default: all there are (fp16 is like bf16).",
        ),
    ] = None,
    resolution: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels. Default: each variant's own.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length of the clip. Default: each variant's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps. Default: each variant's own.")] = None,
    guidance: Annotated[bool, typer.Option(help="Two forwards a step; weights distilled to few steps need one.")] = True,
    fp8_attention: Annotated[bool, typer.Option("--fp8-attention", help="Assume attention in FP8 instead of FP16.")] = False,
    concurrency: Annotated[int, typer.Option(help="Clips of a model at the same time, 1 to 64.")] = 1,
    memory: Annotated[str, typer.Option(help="The machine's memory.")] = _DEFAULT_MEMORY,
    reserve: Annotated[str, typer.Option(help="Of that, for the system, Triton and the page cache.")] = _DEFAULT_RESERVE,
    efficiency: Annotated[float, typer.Option(help="The fraction of each published peak that is reached, 0 to 1.")] = 0.5,
    home: Annotated[Path | None, typer.Option(help="Where artifacts are, whose manifests tell their memory.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell what fits into the Spark's memory, and estimate how long a clip takes there.

    Sizes and operations are counted on the real modules without their weights; engines that were exported tell their
    own sizes. Times follow from the chip's published peaks. Nothing is downloaded, and nothing is measured.

    Examples:

      videosdgx plan

      videosdgx plan wan21:t2v-14b --resolution 1280x720

      videosdgx plan wan21:t2v-1.3b:nvfp4 magi1:4.5b-base:fp8 --concurrency 2

      videosdgx plan wan21:t2v-14b:fp8 --steps 4 --no-guidance --efficiency 0.4 --json
    """
    from export.options import parse_resolution
    from export.planning.ask import parse_bytes
    from videosdgx.artifacts import ArtifactError
    from videosdgx.families import FAMILIES
    from videosdgx.families.request import InvalidInput

    try:
        size = parse_resolution(resolution) if resolution is not None else None
        available, kept = parse_bytes("memory", memory), parse_bytes("reserve", reserve)
        if kept >= available:
            raise InvalidInput(f"reserve is {reserve}, it must be less than the memory, which is {memory}")
        if not 0 < efficiency <= 1:
            raise InvalidInput(f"efficiency is {efficiency:g}, it must be more than 0 and at most 1")
        if not 1 <= concurrency <= _MOST_CONCURRENCY:
            raise InvalidInput(f"concurrency is {concurrency}, it must be a whole number from 1 to {_MOST_CONCURRENCY}")
        # torch and diffusers take seconds to import: --help and a mistyped option do not wait for them.
        from rich.console import Console

        from export.planning import plan as planning
        from export.planning.ask import Ask, requests
        from export.planning.report import show
        from videosdgx.home import default_home

        ask = Ask(size, frames, steps, guidance, fp8_attention)
        where = (home or default_home()).expanduser().resolve()
        wanted, left_out = requests(targets or [], FAMILIES, ask, _SHOWN, where)
        machine = planning.Machine(available, kept, efficiency, concurrency)
        with Console(stderr=True).status("counting"):
            clips = [planning.FAMILIES[request.family].work(request, where) for request in wanted]
            compared = planning.comparisons(wanted, machine, _SHOWN, where)
    except InvalidInput as error:
        raise typer.BadParameter(str(error)) from None
    except ArtifactError as error:
        typer.secho(f"plan: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(planning.as_json(clips, machine, compared, left_out), indent=2))
        return
    console = Console()
    show(console if console.is_terminal else Console(width=140), clips, machine, compared, left_out)
