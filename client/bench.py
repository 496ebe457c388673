"""`videosdgx bench`: the figures that this project promises, measured, beside their limits."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.cli import AsJson, reported
from client.errors import ClientError
from client.local_server import local_server
from client.results import Video
from client.video_client import VideoClient
from videosdgx.memory import available, held_by

READY_SECONDS = 10.0
COLD_SECONDS = 45.0
# Of 9 frames, and of 96. A family that is not here has no promise to keep yet: its clips are measured all the same.
WARM_SECONDS = {"wan21": 6.0, "magi1": 8.0}
OVERHEAD_MILLISECONDS = 12.0
UNLOAD_SECONDS = 2.0
GIVE_UP_SECONDS = 60.0
MEGABYTE = 1e6

# A new prompt for each clip: an encoded prompt is remembered, and a new user's is not.
PROMPTS = tuple(
    f"a {colour} {shape} moving {direction} on a {background} background"
    for colour, shape, direction, background in (
        ("red", "circle", "right", "teal"),
        ("green", "square", "up", "purple"),
        ("blue", "triangle", "left", "gray"),
        ("yellow", "circle", "down", "brown"),
        ("white", "square", "right", "black"),
    )
)


@dataclass(frozen=True)
class Figure:
    """One measurement. Without a limit it is for information."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit."""
        return self.limit is None or self.value <= self.limit


def timed_clip(client: VideoClient, family: str, number: int) -> tuple[float, Video]:
    """Seconds that the caller waits for a clip, and the clip."""
    started = time.monotonic()
    video = client.generate(family, PROMPTS[number % len(PROMPTS)], seed=number)
    return time.monotonic() - started, video


def overhead_milliseconds(videos: list[Video]) -> float:
    """Median over all steps of what a step takes beyond the transformer's own computing."""
    pairs = [zip(video.metadata["step_seconds"], video.metadata["transformer_seconds"], strict=True) for video in videos]
    return 1e3 * statistics.median(step - compute for steps in pairs for step, compute in steps)


def components_of(client: VideoClient, family: str) -> dict[str, dict[str, Any]]:
    """The status of a family's components, by name."""
    status = client.status()
    if family not in status["families"]:
        raise ClientError(f"there is no family {family!r} at {client.url}, it serves {', '.join(status['families'])}")
    return {name: facts for name, facts in status["components"].items() if name.startswith(f"{family}_")}


def measure_unloads(client: VideoClient, family: str) -> list[Figure]:
    """Unload each component; see from outside its process how much memory it held and when that is back."""
    figures = []
    for name, facts in components_of(client, family).items():
        held, available_before, started = held_by(facts["pid"]), available(), time.monotonic()
        client.unload(name)
        while held_by(facts["pid"]) and time.monotonic() - started < GIVE_UP_SECONDS:
            time.sleep(0.02)
        back = time.monotonic() - started
        figures += [
            Figure(f"{name}: memory back after unload", back, "s", UNLOAD_SECONDS),
            Figure(f"{name}: memory of its process before", held / MEGABYTE, "MB"),
            Figure(f"{name}: more available to the system after", (available() - available_before) / MEGABYTE, "MB"),
        ]
    return figures


def measure(client: VideoClient, family: str, clips: int, report: Callable[[str], None]) -> list[Figure]:
    """All figures of a running server but the time until it was ready.

    Raises:
        ClientError: the server failed, or its processes cannot be seen from here.
    """
    for name in components_of(client, family):
        report(f"unloading {name}")
        client.unload(name)
    report("first clip, components cold")
    cold, _ = timed_clip(client, family, 0)
    if not all(held_by(facts["pid"]) for facts in components_of(client, family).values()):
        raise ClientError(f"the processes of {client.url} cannot be seen from here: run the benchmark on its machine")
    seconds, videos = [], []
    for number in range(1, clips + 1):
        report(f"warm clip {number} of {clips}")
        taken, video = timed_clip(client, family, number)
        seconds.append(taken)
        videos.append(video)
    report("unloading the components")
    return [
        Figure("first clip, components cold", cold, "s", COLD_SECONDS),
        Figure(f"warm clip, median of {clips}", statistics.median(seconds), "s", WARM_SECONDS.get(family)),
        Figure("overhead per sampling step, median", overhead_milliseconds(videos), "ms", OVERHEAD_MILLISECONDS),
        *measure_unloads(client, family),
    ]


@contextmanager
def server_to_measure(url: str | None, options: list[str], log: Path) -> Iterator[tuple[VideoClient, list[Figure]]]:
    """The server at `url`, or one of our own; then with the time until it was ready."""
    if url is not None:
        yield VideoClient(url), []
        return
    with local_server(options, log) as server:
        yield VideoClient(server.url), [Figure("serve until ready", server.ready_seconds, "s", READY_SECONDS)]


def figures_table(figures: list[Figure]) -> Table:
    """Figures, limits and verdicts."""
    table = Table("figure")
    for column in ("measured", "limit"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:g} {figure.unit}"
        verdict = "" if figure.limit is None else "[green]pass[/]" if figure.passed else "[red]fail[/]"
        table.add_row(figure.name, f"{figure.value:.1f} {figure.unit}", limit, verdict)
    return table


def bench(
    family: Annotated[str, typer.Argument(help="A family that the server serves.")] = "wan21",
    clips: Annotated[int, typer.Option(min=1, help="Warm clips, of which the median counts.")] = 5,
    url: Annotated[str | None, typer.Option(help="A running server on this machine. Default: start one.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the transformer, for the server that is started.")] = None,
    home: Annotated[Path | None, typer.Option(help="Where artifacts are, for the server that is started.")] = None,
    log: Annotated[Path | None, typer.Option(help="Where the started server's messages go. Default: a new file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with code 1 if a figure is beyond its limit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a server: cold and warm clips, overhead per sampling step, memory after unload.

    Without --url it starts a server of its own on free ports, and measures how soon that is ready too.
    It unloads the family's components on the way.

    Examples:

      videosdgx bench

      videosdgx bench magi1

      videosdgx bench wan21 --precision nvfp4 --clips 9 --check

      videosdgx bench --url localhost:8000 --json
    """
    options = ["--family", family]
    options += ["--precision", f"{family}={precision}"] if precision else []
    options += ["--home", str(home)] if home else []
    log = log or Path(tempfile.mkdtemp(prefix="videosdgx-bench-")) / "server.log"
    progress = Console(stderr=True)
    with reported("bench"):
        if url is None:
            progress.print(f"starting a server, its messages go to {log}", highlight=False, soft_wrap=True)
        with server_to_measure(url, options, log) as (client, figures):
            figures += measure(client, family, clips, lambda text: progress.print(text, highlight=False))
        if as_json:
            print(json.dumps([{**asdict(figure), "passed": figure.passed} for figure in figures], indent=2))
        else:
            Console().print(figures_table(figures))
        if check and not all(figure.passed for figure in figures):
            raise ClientError("at least one figure is beyond its limit")
