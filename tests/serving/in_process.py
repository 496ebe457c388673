"""A family's pipeline in this process, with the engines that a server has."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from videosdgx.artifacts import PIPELINE, verify
from videosdgx.engines.engine import StatefulEngine
from videosdgx.families import FAMILIES
from videosdgx.families.request import parse_request
from videosdgx.families.spec import load
from videosdgx.serving.settings import FamilySettings, Settings


class Silent:
    """Progress that nobody watches."""

    id = "in this process"

    def plan(self, steps: int, chunks: int) -> None: ...

    def phase(self, name: str) -> None: ...

    def step(self, step: int) -> None: ...


def pieces(home: Path, family: str, **values: object) -> Iterator[np.ndarray]:
    """The frames of each piece of a demo's clip, uint8 [F,H,W,3], without Triton."""
    from videosdgx.families.prompts import PromptCache

    spec = FAMILIES[family]
    variant = spec.variant("demo")
    chosen = FamilySettings(variant="demo", precision=spec.default_precision)
    settings = Settings(home=home, target="cpu", families={family: chosen}, http_port=0, grpc_port=0, metrics_port=0)
    opened = {}
    for name, component in spec.components.items():
        directory = settings.artifact(family, name)
        opened[name] = load(component.opener)(directory, verify(directory))
    networks = {name: component.run for name, component in opened.items()}
    request = parse_request(values, spec, variant)
    try:
        made = load(spec.generate)(settings.artifact(family, PIPELINE), variant, request, networks, Silent(), PromptCache())
        for piece in made:
            yield piece.frames
        for name in spec.stateful:
            stateful = cast(StatefulEngine, opened[name])
            stateful.release(Silent.id)
            assert stateful.facts() == {"generations": 0, "state_bytes": 0}
    finally:
        for component in opened.values():
            component.close()
