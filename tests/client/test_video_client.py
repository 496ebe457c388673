"""The Python client, against a real server and against none."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from client import (
    ClientError,
    Event,
    InvalidValue,
    ServerError,
    ServerUnavailable,
    Video,
    VideoClient,
    stream,
)
from client.results import to_event
from client.video_client import split_url
from tests.conftest import Server

PROMPT = "a red circle moving right on a teal background"


@pytest.fixture(scope="module")
def client(tiny_server: Server) -> Iterator[VideoClient]:
    with VideoClient(tiny_server.http_url) as client:
        yield client


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8000", ("localhost", 8000)),
        ("spark.local", ("spark.local", 8000)),
        ("http://10.0.0.2:9000/", ("10.0.0.2", 9000)),
        ("[::1]:8000", ("[::1]", 8000)),
    ],
)
def test_url(url: str, expected: tuple[str, int]) -> None:
    assert split_url(url) == expected


@pytest.mark.parametrize("url", ["", ":8000", "localhost:http", "localhost:99999", "https://localhost:8000", "localhost:1/v2"])
def test_a_bad_url_is_named(url: str) -> None:
    with pytest.raises(ClientError, match="HOST:PORT"):
        VideoClient(url)


def test_without_a_server_every_method_says_how_to_start_one() -> None:
    client = VideoClient("localhost:1")
    assert not client.ready()
    for call in (client.status, client.models, lambda: client.load("x"), lambda: client.generate("wan21", PROMPT)):
        with pytest.raises(ServerUnavailable, match="no server at localhost:1: start one with videosdgx serve"):
            call()


def test_something_else_at_the_port_is_not_taken_for_triton() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ServerUnavailable, match="not Triton's HTTP endpoint"):
            VideoClient(f"127.0.0.1:{listener.getsockname()[1]}").models()


def test_a_generation_asks_for_the_ports_only_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Http:
        def infer(self, model: str, inputs: list[Any]) -> Any:
            asked.append((model, json.loads(inputs[0]._get_binary_data()[4:])))
            answer = {"families": ["wan21"], "http_port": 8000, "grpc_port": 8123, "metrics_port": 8002}
            return SimpleNamespace(as_numpy=lambda name: np.array([json.dumps(answer)]))

        def get_model_metadata(self, model: str) -> dict[str, Any]:
            asked.append(model)
            return {"name": model, "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1]}]}

    @contextmanager
    def http(_client: VideoClient, seconds: float = 0) -> Iterator[Http]:
        yield Http()

    def made(address: str, model: str, *_: Any) -> Video:
        asked.append(address)
        return Video(b"", {})

    monkeypatch.setattr(VideoClient, "_http", http)
    monkeypatch.setattr(stream, "generate", made)
    VideoClient("spark:8000").generate("wan21", PROMPT)
    ports = ("engine_manager", {"action": "ports"})
    assert asked == [ports, "wan21_stream", "spark:8123"]
    with pytest.raises(ServerError, match=r"no family 'sora' at spark:8000, it serves wan21"):
        VideoClient("spark:8000").generate("sora", PROMPT)
    assert asked[3:] == [ports]


def test_an_event_of_a_newer_server_is_understood() -> None:
    event = to_event({"id": "a", "phase": "refining", "step": 1, "steps": 2, "elapsed": 0.5, "detail": "", "layer": 3})
    assert event == Event("a", "refining", 1, 2, 0.5, "")


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.mp4"
    Video(b"old", {}).save(target)
    assert Video(b"new", {}).save(target) == target
    assert target.read_bytes() == b"new" and list(target.parent.iterdir()) == [target]


@pytest.mark.server
def test_the_server_survives_hundreds_of_refusals_in_a_row(client: VideoClient) -> None:
    """Triton 2.51 died after a few hundred when this client cancelled a stream that had failed."""

    def be_refused(times: int) -> None:
        for _ in range(times):
            with pytest.raises(ServerError, match="seed is -1"):
                client.generate("wan21", PROMPT, seed=-1)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(be_refused, [300] * 3))
    assert client.ready()


@pytest.mark.server
def test_names_that_do_not_exist_are_answered_with_those_that_do(client: VideoClient) -> None:
    with pytest.raises(ServerError, match=r"no family 'sora' at .*, it serves wan21"):
        client.generate("sora", PROMPT)
    with pytest.raises(ServerError, match=r"no model 'wan21_unet' at .*wan21_transformer"):
        client.unload("wan21_unet")
    with pytest.raises(ServerError, match="wan21_unet"):
        client.load("wan21_unet")
    with pytest.raises(InvalidValue, match="no input chunks, it has prompt, "):
        client.generate("wan21", PROMPT, chunks=3)
