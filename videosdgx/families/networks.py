"""What a family and those who serve it agree on: how networks are called, how progress is told, what a clip is made of."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from videosdgx.families.spec import Variant

if TYPE_CHECKING:  # these import torch and av, which nobody needs who only calls networks
    from videosdgx.families.prompts import PromptCache
    from videosdgx.families.request import GenerationRequest

# A network as a function from named arrays to named arrays: an engine in this process, or a component in another.
Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Progress(Protocol):
    """Who wants to know how a generation goes. `id` names it; an exception from a method ends it (cancelling)."""

    id: str

    def plan(self, steps: int, chunks: int) -> None:
        """So many steps there will be, and so many chunks; told before the first piece, by families that make chunks."""
        ...

    def phase(self, name: str) -> None:
        """A phase begins: encoding, sampling, decoding."""
        ...

    def step(self, step: int) -> None:
        """So many steps are finished."""
        ...


@dataclass(frozen=True, eq=False)
class Piece:
    """The next part of a clip: `frames` uint8 [F,H,W,3], and with sound `audio` float32 [channels, samples] in [-1,1]."""

    frames: np.ndarray
    audio: np.ndarray | None = None


class Generate(Protocol):
    """The function of a family that makes a clip; its table names it."""

    def __call__(
        self,
        directory: Path,
        variant: Variant,
        request: "GenerationRequest",
        networks: Mapping[str, Run],
        progress: Progress,
        prompts: "PromptCache",
    ) -> Generator[Piece, None, None]:
        """Yield the clip: in one piece, or each chunk as soon as it is clean. Closing the generator ends the work.

        Args:
            directory: the weightless `pipeline` artifact.
            variant: of that artifact.
            request: what to make.
            networks: the family's components as functions, by name.
            progress: is told each phase and step.
            prompts: features of earlier prompts of the same artifact.
        """
        ...
