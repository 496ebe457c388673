"""One server of every family, and what it makes undisturbed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from client import Event, Video, VideoClient
from tests.conftest import Server
from videosdgx.families import FAMILIES
from videosdgx.serving.names import component_model

IDLE_SECONDS = 1.0  # within which a generation that nobody wants is over


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture(
    scope="module", params=[(name, part) for name, spec in FAMILIES.items() for part in spec.components], ids="_".join
)
def part(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each component of each family in turn: the family's name, and the component's."""
    return request.param


@pytest.fixture(scope="session")
def client(tiny_server: Server) -> Iterator[VideoClient]:
    with VideoClient(tiny_server.http_url) as made:
        yield made


@dataclass
class Made:
    """A clip, and all events on the way to it."""

    video: Video
    events: list[Event] = field(default_factory=list)


@pytest.fixture(scope="session")
def made(client: VideoClient) -> Callable[..., Made]:
    """What the server makes of a request when nothing disturbs it. The same request is made once."""
    known: dict[Any, Made] = {}

    def make(family: str, **values: Any) -> Made:
        key = (family, *sorted(values.items()))
        if key not in known:
            events: list[Event] = []
            known[key] = Made(client.generate(family, on_progress=events.append, **values), events)
        return known[key]

    return make


def kept(client: VideoClient, family: str) -> list[tuple[int, int]]:
    """Of each component that keeps something for generations: for how many, and how many bytes. Not of those not loaded."""
    components = client.status()["components"]
    facts = [components[component_model(family, name)] for name in FAMILIES[family].stateful]
    return [(one["generations"], one["state_bytes"]) for one in facts if one["generations"] is not None]


def is_idle(client: VideoClient, seconds: float = IDLE_SECONDS) -> bool:
    """Whether within some seconds no generation runs or waits, and no component keeps anything."""
    deadline = time.monotonic() + seconds
    while True:
        status = client.status()
        facts = [one for family in FAMILIES for one in kept(client, family)]
        if not status["leases"] and not status["waiting"] and all(one == (0, 0) for one in facts):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


@pytest.fixture
def left_idle(client: VideoClient) -> Iterator[None]:
    """A test of the common server that leaves something behind is at fault, not the one after it."""
    yield
    assert is_idle(client)
