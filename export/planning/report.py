"""A plan as tables and notes."""

from rich.console import Console
from rich.table import Table

from export.planning.gb10 import SOURCES
from export.planning.plan import FAMILIES, MOST_TO_COMBINE, Comparison, Machine, combinations_of
from export.planning.work import Bytes, Clip, together

_COLOURS = {"loaded": "green", "all at work": "green", "by turns": "yellow", "one at work": "yellow", "no": "red"}


def duration(seconds: float) -> str:
    """Seconds as a person says them, to two digits or so: `0.31 s`, `95 s`, `8.4 min`, `47 min`, `2.5 h`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if seconds < 240:
        return f"{seconds:.0f} s"
    if seconds < 7000:
        return f"{seconds / 60:.{0 if seconds > 570 else 1}f} min"
    return f"{seconds / 3600:.1f} h"


def _gb(value: float) -> str:
    return f"{value / 1e9:.3g}" if value < 10e9 else f"{value / 1e9:.1f}"


def _size(size: Bytes) -> str:
    return f"{_gb(size.value)} {size.source}"


def _verdict(text: str) -> str:
    return f"[{_COLOURS[text]}]{text}[/]"


def _table(title: str, names: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """A table whose first columns are text and the others numbers."""
    table = Table(title=title, title_justify="left")
    for column in names:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def clips_table(clips: list[Clip], machine: Machine) -> Table:
    """One line for each model: memory, verdict, estimated time."""
    n, budget = machine.concurrency, machine.budget / 1e9
    at_once = f", {n} clips at once" if n > 1 else ""
    table = _table(
        f"What fits into {budget:g} GB{at_once}",
        ("model", "clip"),
        ("weights GB", "working GB", "all loaded GB", "by turns GB", "fits", "estimated time"),
    )
    for clip in clips:
        table.add_row(
            clip.request.name,
            clip.request.clip,
            *map(_gb, (clip.weights, clip.working(n), clip.resident(n), clip.by_turns(n))),
            _verdict(machine.verdict(clip)),
            duration(n * clip.seconds(machine.efficiency)),
        )
    return table


def parts_table(clips: list[Clip], machine: Machine) -> Table:
    """One line for each part of each model."""
    numbers = ("weights GB", "working GB", "kept GB", "TFLOP a run", "runs", "estimated time")
    table = _table("Parts of a clip", ("model", "part"), numbers)
    for clip in clips:
        for index, part in enumerate(clip.parts):
            table.add_row(
                clip.request.name if index == 0 else "",
                f"{part.component} {part.precision}",
                _size(part.weights),
                _size(part.activation),
                f"{part.kept.count} x {_gb(part.kept.each)}" if part.kept else "",
                f"{part.flops / 1e12:.3g}" if part.flops < 1e15 else f"{part.flops / 1e12:.0f}",
                str(part.runs),
                duration(part.runs * part.seconds(machine.efficiency)),
            )
        table.add_section()
    return table


def decoders_table(clips: list[Clip], machine: Machine) -> Table | None:
    """What the video decoder takes in PyTorch and as an engine; None where no clip has both. Precisions share a line."""
    numbers = ("PyTorch GB", "engine GB", "saves GB", "PyTorch time", "engine time")
    table = _table("The video decoder as an engine (videosdgx export wan21 --component vae)", ("model", "clip"), numbers)
    shown = set()
    for clip in clips:
        name = (clip.request.variant.name, clip.request.clip)
        if clip.decoders is None or name in shown:
            continue
        shown.add(name)
        plain, engine = (part.weights.value + machine.concurrency * part.working for part in clip.decoders)
        seconds = [part.seconds(machine.efficiency) for part in clip.decoders]
        table.add_row(
            f"{clip.request.family}:{name[0]}",
            name[1],
            f"{_gb(plain)} {clip.decoders[0].precision}",
            f"{_gb(engine)} {clip.decoders[1].precision} {clip.decoders[1].activation.source}",
            _gb(plain - engine),
            *map(duration, seconds),
        )
    return table if shown else None


def together_table(clips: list[Clip], machine: Machine) -> Table:
    """Pairs of models, and all of them, loaded at the same time."""
    table = _table("Loaded together, each with all its parts", ("models",), ("one at work GB", "all at work GB", "fits"))
    for group in combinations_of(clips):
        one, every = together(group, machine.concurrency)
        names = " + ".join(clip.request.name for clip in group) if len(group) == 2 else f"all {len(group)}"
        table.add_row(names, _gb(one), _gb(every), _verdict(machine.combined_verdict(group)))
    return table


def _range(low: str, high: str) -> str:
    """`4 s`, `30 to 50 min` or `72 s to 8 min`."""
    if low == high:
        return low
    number, _, unit = low.partition(" ")
    return f"{number} to {high}" if high.endswith(f" {unit}") else f"{low} to {high}"


def published_table(compared: list[Comparison]) -> Table:
    """Published times and what is estimated for the same clip on the Spark."""
    precisions = list(compared[0].estimates)
    table = _table(
        "Published, beside what is estimated for the same clip on the Spark",
        ("clip", "machine"),
        ("published", "TFLOP/s by our count", *(f"Spark {precision}" for precision in precisions)),
    )
    for one in compared:
        figure = one.published
        slow, fast = (f"{rate / 1e12:.0f}" for rate in one.rate)
        unguided = "" if figure.guided else " unguided"
        table.add_row(
            f"{figure.variant} {figure.width}x{figure.height}, {figure.frames} frames, {figure.steps} steps{unguided}",
            figure.machine,
            _range(*map(duration, figure.seconds)),
            _range(slow, fast),
            *(duration(one.estimates[precision]) for precision in precisions),
        )
    return table


def notes(clips: list[Clip], machine: Machine, left_out: list[str]) -> list[str]:
    """What the figures rest on."""
    memory, reserve = f"{machine.memory / 1e9:g} GB", f"{machine.reserve / 1e9:g} GB"
    lines = [
        "Nothing here was measured on a Spark. Times are rooflines: each operation takes as long as its arithmetic or its "
        "memory traffic, whichever is longer (parts in PyTorch count as one operation), "
        f"at {machine.efficiency:.0%} (--efficiency, assumed) of the published peak.",
        SOURCES + ".",
        f"Memory: {memory} less a reserve of {reserve} for the system, Triton's processes and the page cache (--reserve, "
        "assumed).",
        "All loaded: the weights of all parts, and for each clip at once the working memory of the largest part and what is "
        "kept. By turns: the largest part alone, the others unloaded; loading takes time that is not counted.",
        "Sizes: counted on the real modules; estimated; manifest: what the compiler said.",
        f"Linear layers compute in their own format, attention in {clips[0].request.attention}.",
        *(note for family in dict.fromkeys(clip.request.family for clip in clips) for note in FAMILIES[family].notes),
    ]
    if machine.concurrency > 1:
        lines.append("Clips at once share the arithmetic: the time is until all of them are done.")
    if len(clips) > MOST_TO_COMBINE:
        lines.append(f"Name at most {MOST_TO_COMBINE} models to see their parts and which of them fit together.")
    return [*lines, *left_out]


def show(console: Console, clips: list[Clip], machine: Machine, compared: list[Comparison], left_out: list[str]) -> None:
    """Print a plan."""
    console.print(clips_table(clips, machine))
    if len(clips) <= MOST_TO_COMBINE:
        console.print(parts_table(clips, machine))
    if decoders := decoders_table(clips, machine):
        console.print(decoders)
    if combinations_of(clips):
        console.print(together_table(clips, machine))
    if compared:
        console.print(published_table(compared))
    for line in notes(clips, machine, left_out):
        console.print(f"- {line}", highlight=False, soft_wrap=not console.is_terminal)
