"""A family's pipeline in this process, with the engines that a server has: by default that of `tests.contract.tiny_home`."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from tests.contract.requests import small
from tests.contract.tiny_home import PRECISION
from videosdgx.artifacts import PIPELINE, verify
from videosdgx.engines.engine import StatefulEngine
from videosdgx.families import FAMILIES
from videosdgx.families.networks import Run
from videosdgx.families.request import parse_request
from videosdgx.families.spec import load
from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.video import encode_mp4
from videosdgx.serving.settings import FamilySettings, Settings


class Silent:
    """Progress that nobody watches; `chunks` is what the family told of them, `called` are the components that it needed."""

    id = "in this process"

    def __init__(self) -> None:
        self.chunks = 0
        self.called: set[str] = set()

    def watched(self, component: str, run: Run) -> Run:
        """A network that notes that it was called."""

        def noted(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            self.called.add(component)
            return run(inputs)

        return noted

    def plan(self, steps: int, chunks: int) -> None:
        self.chunks = chunks

    def phase(self, name: str) -> None: ...

    def step(self, step: int) -> None: ...


def pieces(
    home: Path, family: str, progress: Silent | None = None, precision: str = PRECISION, **values: object
) -> Iterator[np.ndarray]:
    """The frames of each piece of a clip, uint8 [F,H,W,3], without Triton."""
    from videosdgx.families.prompts import PromptCache

    spec, progress = FAMILIES[family], progress or Silent()
    variant = spec.variant("demo")
    chosen = FamilySettings(variant="demo", precision=precision)
    settings = Settings(home=home, target="cpu", families={family: chosen}, http_port=0, grpc_port=0, metrics_port=0)
    opened = {}
    for name, component in spec.components.items():
        directory = settings.artifact(family, name)
        opened[name] = load(component.opener)(directory, verify(directory))
    networks = {name: progress.watched(name, component.run) for name, component in opened.items()}
    request = parse_request(values, spec, variant)
    try:
        made = load(spec.generate)(settings.artifact(family, PIPELINE), variant, request, networks, progress, PromptCache())
        for piece in made:
            yield piece.frames
        for name in spec.stateful:
            stateful = cast(StatefulEngine, opened[name])
            stateful.release(Silent.id)
            assert stateful.facts() == {"generations": 0, "state_bytes": 0}
    finally:
        for component in opened.values():
            component.close()


def file(home: Path, family: str, precision: str = PRECISION, **values: object) -> bytes:
    """The MP4 of a clip. The encoder is deterministic: equal files say that the frames were equal in every pixel."""
    progress = Silent()
    made = list(pieces(home, family, progress, precision, **values))
    fps = parse_request(values, FAMILIES[family], FAMILIES[family].variant("demo")).fps
    if not progress.chunks:
        return encode_mp4(np.concatenate(made), fps)
    encoder = FragmentEncoder(fps)
    return whole_mp4(b"".join(encoder.encode(frames) for frames in made))


@cache
def needed(home: Path, family: str) -> frozenset[str]:
    """The components that a usual clip cannot do without."""
    progress = Silent()
    for _ in pieces(home, family, progress, **small(family)):
        pass
    return frozenset(progress.called)
