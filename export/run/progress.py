"""What a person sees while an export runs: one bar per stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table


class Report:
    """Bars for stages; in a log file, where bars cannot move, one line per finished stage. In the end a table of them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=12, no_wrap=True)),
            BarColumn(bar_width=16),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1)),
            console=console,
            disable=not console.is_terminal,
        )
        self._rows: list[tuple[str, float, int, str]] = []

    def __enter__(self) -> "Report":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._rows:
            self._print_table()

    @contextmanager
    def step(self, name: str, total: float = 1) -> Iterator["Step"]:
        """A stage of `total` units of work."""
        step = Step(self._progress, self._progress.add_task(name, total=total, note=""))
        _forget_peak()
        began = time.monotonic()
        yield step
        self._rows.append((name, time.monotonic() - began, peak_memory(), step.text or "done"))
        self._progress.update(step.task, completed=step.total, total=step.total)
        if not self.console.is_terminal:
            self.console.print(f"{name}: {step.text or 'done'}", highlight=False, soft_wrap=True)

    def _print_table(self) -> None:
        """What each finished stage took: seconds, and the most memory that this process had resident."""
        table = Table("stage", Column("seconds", justify="right"), Column("peak memory", justify="right"), "result")
        for name, seconds, peak, text in self._rows:
            table.add_row(name, f"{seconds:.1f}", f"{peak / 1e9:.2f} GB", text)
        self.console.print(table)


def _forget_peak() -> None:
    """Have the kernel start anew with the largest resident size of this process (where it lets us)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The largest resident size of this process so far, or since it was last forgotten, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Step:
    """One stage's bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self.task, self.text = progress, task, ""
        self.total = progress.tasks[-1].total or 1

    def expect(self, total: float) -> None:
        """The stage turns out to have `total` units of work."""
        self.total = total
        self._progress.update(self.task, total=total)

    def advance(self, amount: float = 1) -> None:
        """`amount` units are done."""
        self._progress.advance(self.task, amount)

    def note(self, text: str) -> None:
        """Say something beside the bar."""
        self.text = text
        self._progress.update(self.task, note=text)


Advance = Callable[[float], None]
