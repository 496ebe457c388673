"""How a generation's progress is shown: a bar on a terminal, lines in a file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from client.results import Event

# In a file, this many lines tell of the sampling, however many steps there are.
LINES = 5


# What happens to every chunk between two steps.
PHASES_OF_CHUNKS = ("decoding", "muxing", "chunk")


def in_chunk(event: Event) -> str:
    """Such as `, chunk 2 of 5`, of a clip that is made in chunks."""
    return f", chunk {event.chunk} of {event.chunks}" if event.chunks else ""


class ElapsedColumn(ProgressColumn):
    """Seconds since the beginning, through all phases."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()

    def render(self, task: Task) -> Text:
        """Such as `12 s`."""
        return Text(f"{time.monotonic() - self._started:.0f} s", style="progress.elapsed")


class Bar:
    """Phase, bar, steps, time so far, time left. Before and after the sampling the bar only shows that work goes on."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task = progress.add_task("connecting", total=None, steps="")
        self._phase = ""

    def __call__(self, event: Event) -> None:
        """Show an event. What happens to a chunk between two steps is left to the steps' own estimate."""
        if event.chunks and event.phase in PHASES_OF_CHUNKS:
            return
        sampling = event.phase == "sampling"
        if event.phase != self._phase:
            self._phase = event.phase
            # A reset starts the estimate of the time left anew: loading says nothing about the speed of sampling.
            self._progress.reset(self._task, total=event.steps if sampling else None, start=True)
        self._progress.update(
            self._task,
            description=f"{event.phase} {event.detail}".strip(),
            completed=event.step if sampling else None,
            steps=f"step {event.step} of {event.steps}{in_chunk(event)}" if sampling else "",
        )


class Lines:
    """A line for each phase and for some of the steps."""

    def __init__(self, console: Console):
        self._console = console
        self._step = -1

    def __call__(self, event: Event) -> None:
        """Print an event, unless it is one of the steps in between."""
        text = f"{event.elapsed:7.1f} s  {event.phase}"
        if event.phase == "sampling":
            between = event.step % max(1, event.steps // LINES) and event.step != event.steps
            if between or event.step == self._step:
                return
            self._step = event.step
            text += f" step {event.step} of {event.steps}"
        if event.chunks and event.phase in PHASES_OF_CHUNKS:
            # Each chunk is decoded and written; one line of the three says so.
            if event.phase != "chunk":
                return
            text += f" {event.chunk} of {event.chunks} is finished"
        self._console.print(f"{text} {event.detail}".rstrip(), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_on(console: Console) -> Iterator[Bar | Lines]:
    """A callback for `VideoClient.generate` that fits what standard output is."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        ElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress)
