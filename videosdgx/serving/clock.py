"""Tells the client how a generation goes, measures it, and stops it when the client is gone."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from videosdgx.serving.errors import Cancelled


class Emit(Protocol):
    """Sends one event to the client, with a part of the video if there is one."""

    def __call__(self, event: dict[str, Any], video: bytes | None = None) -> None:
        """Send `event`; `video` is the next fragment of the file."""
        ...


@dataclass
class Clock:
    """Tells the client each phase, step and chunk, measures them, and stops the generation when the client is gone."""

    id: str
    steps: int
    emit: Emit
    is_cancelled: Callable[[], bool]
    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)
    step_seconds: list[float] = field(default_factory=list)
    chunk_seconds: list[float] = field(default_factory=list)
    current: str = ""
    chunks: int = 0  # as the family told; 0 if it makes a clip as a whole
    _since: float = 0.0
    _step_since: float = 0.0

    def check(self) -> None:
        """Raise `Cancelled` if the client is gone."""
        if self.is_cancelled():
            raise Cancelled(f"generation {self.id} was cancelled by the client")

    def plan(self, steps: int, chunks: int) -> None:
        """A family that makes a clip in chunks tells how many there are, and how many steps they take together."""
        self.steps, self.chunks = steps, chunks

    def event(self, phase: str, step: int = 0, detail: str = "", video: bytes | None = None, chunk: int = 0) -> None:
        """Send one event. `chunk` counts from 1; by default it is the one that comes next."""
        self.check()
        elapsed = round(time.perf_counter() - self.started, 3)
        event = {"id": self.id, "phase": phase, "step": step, "steps": self.steps, "elapsed": elapsed, "detail": detail}
        if self.chunks:
            event |= {"chunk": chunk or min(len(self.chunk_seconds) + 1, self.chunks), "chunks": self.chunks}
        self.emit(event, video)

    def phase(self, name: str, detail: str = "") -> None:
        """A phase begins (or goes on, with another detail)."""
        now = time.perf_counter()
        if name != self.current:
            if self.current:
                self.seconds[self.current] = self.seconds.get(self.current, 0.0) + now - self._since
            self.current, self._since, self._step_since = name, now, now
        # Sampling goes on where it was left to decode a chunk.
        self.event(name, len(self.step_seconds) if name == "sampling" else 0, detail)

    def step(self, step: int) -> None:
        """So many sampling steps are finished."""
        now = time.perf_counter()
        self.step_seconds.append(now - self._step_since)
        self._step_since = now
        self.event(self.current, step)

    def chunk(self, video: bytes | None) -> None:
        """One more chunk is finished; `video` is its part of the file, if the client wants parts."""
        self.chunk_seconds.append(time.perf_counter() - self.started)
        self.event("chunk", len(self.step_seconds), video=video, chunk=len(self.chunk_seconds))
