"""A generation that nobody wants any more ends within a step, whoever says so and how, and leaves nothing behind."""

import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc

from client import Event, GenerationTimeout, VideoClient
from tests.client.commands import start
from tests.conftest import Server
from tests.contract.conftest import Made, is_idle, kept
from tests.contract.requests import endless, small
from tests.serving.calls import tensors
from videosdgx.families import FAMILIES

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("left_idle")]


@pytest.fixture(autouse=True)
def loaded(family: str, client: VideoClient) -> None:
    """Loading would be the longest part."""
    client.generate(family, **small(family))


def test_an_exception_in_the_callback_ends_it(family: str, made: Callable[..., Made], client: VideoClient) -> None:
    class Enough(Exception):
        pass

    seen: list[Event] = []
    holding: list[tuple[int, int]] = []

    def stop_at_two(event: Event) -> None:
        seen.append(event)
        if event.step == 2:
            holding.extend(kept(client, family))
            raise Enough

    with pytest.raises(Enough):
        client.generate(family, on_progress=stop_at_two, **endless(family))
    assert is_idle(client) and seen[-1].step == 2
    assert len(holding) == len(FAMILIES[family].stateful) and all(count == 1 and size > 0 for count, size in holding)
    assert client.generate(family, **small(family)).data == made(family, **small(family)).video.data


def test_a_timeout_ends_it(family: str, client: VideoClient) -> None:
    with pytest.raises(GenerationTimeout, match=r"0\.5 s"):
        client.generate(family, timeout=0.5, **endless(family))
    assert is_idle(client)


def test_ctrl_c_in_the_command_ends_it_and_leaves_no_file(
    family: str, client: VideoClient, tiny_server: Server, tmp_path: Path
) -> None:
    values = endless(family)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if name != "prompt"]
    process = start("generate", family, values["prompt"], *options, "-o", "x.mp4", "--url", tiny_server.http_url, cwd=tmp_path)
    assert process.stdout is not None
    assert any("sampling step" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert is_idle(client)
    assert process.returncode == 130 and errors == "videosdgx generate: stopped\n"
    assert not list(tmp_path.iterdir())


def test_a_stream_that_is_cancelled_ends_it(family: str, client: VideoClient, tiny_server: Server) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with grpc.InferenceServerClient(tiny_server.grpc_url) as triton:
        triton.start_stream(lambda result, error: answers.put((result, error)))
        triton.async_stream_infer(f"{family}_stream", tensors(endless(family), grpc))
        for _ in range(6):
            _, error = answers.get(timeout=30)
            assert error is None
        assert len(client.status()["leases"]) == 1
        triton.stop_stream(cancel_requests=True)
    assert is_idle(client)


def test_a_single_answer_that_is_cancelled_ends_it(family: str, client: VideoClient, tiny_server: Server) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with grpc.InferenceServerClient(tiny_server.grpc_url) as triton:
        call = triton.async_infer(family, tensors(endless(family), grpc), lambda result, error: answers.put((result, error)))
        while not client.status()["leases"]:
            assert answers.empty()
        call.cancel()
        result, error = answers.get(timeout=10)
    assert result is None and "cancelled" in str(error).lower()
    assert is_idle(client)
