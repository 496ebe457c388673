"""MAGI-1's pipeline in this process, with the engines that the server has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from videosdgx.artifacts import verify
from videosdgx.families import FAMILIES
from videosdgx.families.request import parse_request
from videosdgx.serving.settings import FamilySettings, Settings

VARIANT = FAMILIES["magi1"].variants["demo"]


class Silent:
    """Progress that nobody watches."""

    id = "in this process"

    def plan(self, steps: int, chunks: int) -> None: ...

    def phase(self, name: str) -> None: ...

    def step(self, step: int) -> None: ...


def magi1_chunks(home: Path, **values: object) -> Iterator[np.ndarray]:
    """The chunks of a clip, uint8 [F,H,W,3] each, without Triton."""
    from videosdgx.families.magi1 import components, generate
    from videosdgx.families.prompts import PromptCache

    chosen = FamilySettings(variant="demo", precision=FAMILIES["magi1"].default_precision)
    settings = Settings(home=home, target="cpu", families={"magi1": chosen}, http_port=0, grpc_port=0, metrics_port=0)
    opened = {}
    for name, opener in components.OPENERS.items():
        directory = settings.artifact("magi1", name)
        opened[name] = opener(directory, verify(directory))
    networks = {name: component.run for name, component in opened.items()}
    request = parse_request(values, VARIANT)
    pipeline = settings.artifact("magi1", "pipeline")
    try:
        yield from generate.generate(pipeline, VARIANT, request, networks, Silent(), PromptCache())
        assert opened["transformer"].facts() == {"generations": 0, "state_bytes": 0}
    finally:
        for component in opened.values():
            component.close()
