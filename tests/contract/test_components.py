"""Weights of every family come and go: unloaded while idle and in mid-generation, killed, loaded again when they are needed."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from client import Event, ServerError, Video, VideoClient
from client.bench import UNLOAD_SECONDS
from tests.conftest import Server
from tests.contract import in_process
from tests.contract.conftest import Made
from tests.contract.requests import lasting, small
from videosdgx.families import FAMILIES
from videosdgx.serving.engine_manager import alive
from videosdgx.serving.names import component_model, component_models

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("left_idle")]

Part = tuple[str, str]


def facts(client: VideoClient, model: str) -> dict[str, Any]:
    return client.status()["components"][model]


def disturbed(client: VideoClient, part: Part, action: Callable[[], None]) -> Video:
    """A clip in whose making `action` is done, before the component `part` is needed for the last time.

    The transformer is disturbed when much has been sampled, of a clip in chunks a whole one, so that what it keeps is lost; the
    other parts as early as can be. The prompt is new: for one that the server remembers nobody needs an encoder.
    """
    family, component = part
    done: list[bool] = []

    def watch(event: Event) -> None:
        if component == "transformer":
            half = event.phase == "sampling" and event.step >= event.steps // 2 > 0
            now = half and (event.chunk > 1 or not event.chunks)
        else:
            now = event.phase == "encoding"
        if now and not done:
            done.append(True)
            action()

    video = client.generate(family, on_progress=watch, **disturbed_request(part, action.__name__))
    assert done
    return video


def disturbed_request(part: Part, by: str) -> dict[str, Any]:
    family, component = part
    values = lasting(family)
    return values | {"prompt": f"{values['prompt']} {component} {by}"}


def test_unloading_a_component_in_mid_generation_only_delays_it(part: Part, client: VideoClient, tiny_server: Server) -> None:
    family, component = part
    model = component_model(*part)
    client.generate(family, **small(family))  # so that all are loaded
    before = facts(client, model)["pid"]

    def unload() -> None:
        client.unload(model)

    video = disturbed(client, part, unload)
    assert video.data == in_process.file(tiny_server.home, family, **disturbed_request(part, "unload"))
    after = facts(client, model)["pid"]
    assert before is not None and after != before
    # Others may have been needed for the last time just before they went.
    assert component != "transformer" or after is not None


def test_a_killed_component_fails_its_request_by_name_and_no_other(
    part: Part, made: Callable[..., Made], client: VideoClient, tiny_server: Server
) -> None:
    family, component = part
    model = component_model(*part)
    client.generate(family, **small(family))
    pid = facts(client, model)["pid"]
    others: dict[str, bytes] = {}

    def others_too() -> None:
        for other in FAMILIES:
            if other != family:
                others[other] = client.generate(other, **small(other)).data

    beside = threading.Thread(target=others_too)
    beside.start()
    if component != "transformer":
        os.kill(pid, signal.SIGSTOP)  # so that it has not answered when it is killed

    def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    if component in in_process.needed(tiny_server.home, family):
        with pytest.raises(ServerError, match=rf"{model} died during this generation .* loaded again for the next request"):
            disturbed(client, part, kill)
    else:
        disturbed(client, part, kill)
    assert client.generate(family, **small(family)).data == made(family, **small(family)).video.data
    assert facts(client, model)["pid"] not in (pid, None)
    beside.join()
    assert others == {other: made(other, **small(other)).video.data for other in FAMILIES if other != family}


def test_components_that_are_killed_while_idle_cost_no_request(
    family: str, made: Callable[..., Made], client: VideoClient
) -> None:
    client.generate(family, **small(family))
    pids = {model: facts(client, model)["pid"] for model in component_models(family)}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 2
    while {facts(client, model)["state"] for model in pids} != {"dead"}:
        assert time.monotonic() < deadline
    assert client.generate(family, **small(family)).data == made(family, **small(family)).video.data
    assert all(facts(client, model)["pid"] not in (pid, None) for model, pid in pids.items())


def test_an_unloaded_component_gives_its_memory_back_at_once_and_is_loaded_by_name_or_by_need(
    family: str, made: Callable[..., Made], client: VideoClient
) -> None:
    def states() -> dict[str, str]:
        return {model["name"]: model["state"] for model in client.models()}

    client.generate(family, **small(family))
    models = component_models(family)
    for model in models:
        loaded = facts(client, model)
        assert loaded["state"] == "ready" and loaded["memory_bytes"] > 10e6 and loaded["loaded_seconds"] > 0
        assert loaded["artifact"].startswith(f"artifacts/{family}/demo/{model.removeprefix(f'{family}_')}/")
        assert states()[model] == "READY"
        started = time.monotonic()
        client.unload(model)
        while alive(loaded["pid"]):
            assert time.monotonic() - started < UNLOAD_SECONDS
            time.sleep(0.01)
        gone = facts(client, model)
        assert gone["state"] == "unloaded" and gone["pid"] is gone["memory_bytes"] is gone["loaded_seconds"] is None
        assert states()[model] != "READY"
    client.load(models[0])
    assert [facts(client, model)["state"] for model in models] == ["ready"] + ["unloaded"] * (len(models) - 1)
    assert states()[models[0]] == "READY"
    assert client.generate(family, **small(family)).data == made(family, **small(family)).video.data
    assert {facts(client, model)["state"] for model in models} == {"ready"}
