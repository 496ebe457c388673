"""The command `videosdgx export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.options import check_size, parse_resolution
from videosdgx.families import FAMILIES
from videosdgx.families.spec import Component, FamilySpec

if TYPE_CHECKING:
    from export.run.job import Settings

TARGETS = ("cpu", "sm121")
COMPILERS = ("tensorrt_rtx", "tensorrt")
SAMPLERS = ("renoise", "euler")


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"unknown {what} {value!r}; there are: {', '.join(allowed)}")
    return value


def _precisions(spec: FamilySpec, component: Component) -> tuple[str, ...]:
    """What an engine of a component may be exported in, its usual precision first."""
    found = tuple(dict.fromkeys(precision for own in component.engine.values() for precision in own))
    return found if component.torch else tuple(dict.fromkeys((spec.default_precision, *found)))


def export(
    family: Annotated[str, typer.Argument(help=f"Which family of models: {', '.join(FAMILIES)}.")],
    variant: Annotated[str, typer.Option(help="Which checkpoint of the family; `demo` needs no download.")] = "demo",
    component: Annotated[
        str, typer.Option(help="transformer, or vae: Wan 2.1's decoder as an engine too, in fp16 or bf16 for sm121.")
    ] = "transformer",
    precision: Annotated[
        str | None, typer.Option(help="bf16 (fp16 for the demo), fp8 or nvfp4. Default: the family's own; for the vae fp16.")
    ] = None,
    target: Annotated[
        str, typer.Option(help="cpu (ONNX Runtime) or sm121 (DGX Spark, compiled here, GPU not needed).")
    ] = "cpu",
    compiler: Annotated[str, typer.Option(help="For sm121: tensorrt_rtx, or tensorrt on the Spark itself.")] = "tensorrt_rtx",
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A directory in diffusers' layout or a Hugging Face repository, instead of the variant's own."),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="A rehearsal without a checkpoint: weights from a seed.")
    ] = False,
    layers: Annotated[int | None, typer.Option(min=1, help="A rehearsal with the first N blocks only, at full width.")] = None,
    resolution: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHT to compile for; repeat it for several in one engine.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames to compile for, at most.")] = None,
    home: Annotated[
        Path | None, typer.Option(help="Where artifacts go; by default $VIDEOSDGX_HOME or `home` in the checkout.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, max=1000, help="Whole clips to compare with the unquantized model's.")] = 4,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 uses every core (the demo: one).")] = 0,
    fp8_attention: Annotated[
        bool,
        typer.Option("--fp8-attention", help="Also the products of self-attention in FP8: less memory, less accurate."),
    ] = False,
    lora: Annotated[
        list[str] | None, typer.Option(help="FILE[:SCALE], a LoRA to fuse into the weights; repeat it for several.")
    ] = None,
    few_step: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="The weights (of --lora or --checkpoint) were distilled to so many steps without guidance: 4."
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="With --few-step: renoise (fresh noise at every step, the default) or euler.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Do every stage again, even if it was done with the same settings.")] = False,
) -> None:
    """Quantize a checkpoint, verify it, and compile it to an engine with a manifest.

    The stages are: checkpoint, calibrate (ModelOpt, on pipeline runs), graph (quantized ONNX), verify (on ONNX Runtime: whole
    clips of the demo, single blocks of the published models) and, for sm121, compile. What is finished is not done again,
    so an export that was stopped goes on where it was. An export that is less accurate than the family allows fails.
    The published models are read one layer at a time: 3 GB of memory beside the largest file of the checkpoint suffice
    until the compiler starts.

    Examples:

      videosdgx export wan21 --variant demo --precision fp8 --target cpu

      videosdgx export wan21 --variant demo --precision nvfp4 --target sm121

      videosdgx export wan21 --variant demo --precision nvfp4 --target cpu --clips 100

      videosdgx export wan21 --variant t2v-1.3b --precision fp8 --target sm121                          (downloads it)

      videosdgx export wan21 --variant t2v-14b --precision nvfp4 --target sm121 --checkpoint DIR --resolution 832x480

      videosdgx export wan21 --variant t2v-14b --precision nvfp4 --target sm121 --lora FILE --few-step 4

      videosdgx export wan21 --variant t2v-14b --precision nvfp4 --target sm121 --random-weights --layers 2

      videosdgx export wan21 --variant t2v-14b --component vae --target sm121     (frames in tiles; --resolution: whole)

      videosdgx export magi1 --variant 4.5b-base --precision nvfp4 --target sm121 --resolution 720x720 --resolution 1280x720
    """
    spec = FAMILIES[_one_of("family", family, tuple(FAMILIES))]
    engines = tuple(name for name, part in spec.components.items() if part.engine)
    part = spec.components[_one_of("component", component, engines)]
    precision = precision or _precisions(spec, part)[0]
    _one_of("precision", precision, spec.precisions + tuple(p for p in _precisions(spec, part) if p not in spec.precisions))
    _one_of("target", target, TARGETS)
    _one_of("compiler", compiler, COMPILERS)
    _one_of("sampler", sampler or SAMPLERS[0], SAMPLERS)
    if sampler and few_step is None:
        raise typer.BadParameter("--sampler is for weights that were distilled to few steps: give --few-step too")
    try:
        chosen = spec.variant(variant)
        resolutions = tuple(parse_resolution(text) for text in resolution or [])
        for width, height in resolutions or [(chosen.width, chosen.height)]:
            check_size(chosen, width, height, chosen.frames.low if frames is None else frames)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    # torch and diffusers take seconds to import: --help and a mistyped option do not wait for them.
    from export.run.job import Settings
    from videosdgx.home import default_home

    settings = Settings(
        home=(home or default_home()).expanduser().resolve(),
        variant=variant,
        precision=precision,
        target=target,  # type: ignore[arg-type]
        compiler=compiler,
        checkpoint=checkpoint,
        random_weights=random_weights,
        layers=layers,
        resolutions=resolutions,
        frames=frames,
        clips=clips,
        threads=threads,
        fresh=fresh,
        fp8_attention=fp8_attention,
        loras=tuple(lora or ()),
        few_step=few_step,
        few_step_sampler=sampler or SAMPLERS[0],  # type: ignore[arg-type]
    )
    _check(settings, spec, part)
    _make(settings, spec, part)


def _check(settings: "Settings", spec: FamilySpec, part: Component) -> None:
    """Refuse options that exclude each other, before anything is read."""
    named = f"--component {part.name}"
    if settings.target not in part.engine:
        raise typer.BadParameter(
            f"{named} is for --target {' or '.join(part.engine)}; on a CPU PyTorch runs it, and it comes with the rest"
        )
    allowed = part.engine[settings.target]
    if settings.precision not in allowed:
        if settings.precision in _precisions(spec, part):
            raise typer.BadParameter(
                f"ONNX Runtime does not compute in {settings.precision} on a CPU: choose {allowed[0]}, or --target sm121"
            )
        raise typer.BadParameter(f"{named} takes --precision {' or '.join(allowed)}, not {settings.precision}")
    if settings.variant == "demo" and (settings.random_weights or settings.layers):
        raise typer.BadParameter("--random-weights and --layers are for the published variants; the demo has its checkpoint")
    if settings.random_weights and (settings.checkpoint or settings.loras):
        raise typer.BadParameter("--random-weights excludes --checkpoint and --lora")
    if settings.few_step and not (settings.loras or settings.checkpoint):
        raise typer.BadParameter(
            "--few-step is for weights that were distilled to few steps: give them with --lora or --checkpoint"
        )
    if part.torch:
        needless = {"--layers": settings.layers, "--frames": settings.frames, "--fp8-attention": settings.fp8_attention}
        needless["--few-step"] = settings.few_step
        for option, value in (needless | {"--lora": settings.loras}).items():
            if value:
                raise typer.BadParameter(f"{option} is of the transformer, not of {named}")


def _make(settings: "Settings", spec: FamilySpec, part: Component) -> None:
    """Export, and say what happened in a line that a person understands."""
    from rich.console import Console

    from export.families import recipes
    from export.run import exporter
    from export.run.errors import ExportError
    from export.run.progress import Report

    console = Console()
    try:
        recipe = recipes(spec.name)[part.name]
        most = recipe.network.published(settings.variant).get("num_layers", 0) if settings.layers is not None else 0
        if settings.layers is not None and settings.layers > most:
            raise typer.BadParameter(f"--layers is {settings.layers}, {settings.variant} has {most}")
        with Report(console) as report:
            directory = exporter.export(recipe, settings, report)
    except ExportError as error:
        Console(stderr=True).print(f"export: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno != 28:
            raise
        Console(stderr=True).print(
            f"export: the disk of {settings.home} is full: make room, or choose another --home", style="red", soft_wrap=True
        )
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("export: stopped; the stages that were finished are kept", style="red", soft_wrap=True)
        raise typer.Exit(130) from None
    console.print(f"wrote {directory}", highlight=False, soft_wrap=True)
