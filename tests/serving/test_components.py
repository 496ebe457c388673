"""Weights come and go: unloading while idle and in mid-generation, killed processes, changed artifacts, cancelling."""

import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from tests.conftest import Server, start_server
from tests.serving.calls import generate, status
from videosdgx.serving.engine_manager import alive

pytestmark = pytest.mark.server

PROMPT = "a blue square moving left on a gray background"


@pytest.fixture
def client(server: Server) -> Iterator[http.InferenceServerClient]:
    with http.InferenceServerClient(server.http_url, network_timeout=120) as made:
        yield made


def component(server: Server, name: str = "wan21_transformer") -> dict[str, Any]:
    return status(server.http_url)["components"][name]


def in_background(work: Callable[[], Any]) -> "queue.Queue[Any]":
    results: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            results.put(work())
        except Exception as error:
            results.put(error)

    threading.Thread(target=run, daemon=True).start()
    return results


def test_an_unloaded_component_gives_its_memory_back_and_is_loaded_when_needed(
    server: Server, client: http.InferenceServerClient
) -> None:
    first, _ = generate(server.http_url, prompt=PROMPT, seed=5, num_inference_steps=3)
    pid = component(server)["pid"]
    assert component(server)["memory_bytes"] > 10_000_000
    client.unload_model("wan21_transformer")
    deadline = time.monotonic() + 2
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)
    assert component(server)["state"] == "unloaded"
    again, _ = generate(server.http_url, prompt=PROMPT, seed=5, num_inference_steps=3)
    assert again == first and component(server)["pid"] != pid
    client.unload_model("wan21_vae")
    client.load_model("wan21_vae")
    assert component(server, "wan21_vae")["state"] == "ready"


def wait_for_sampling(server: Server) -> None:
    deadline = time.monotonic() + 30
    while not status(server.http_url)["leases"] and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)


def test_unloading_in_mid_generation_only_delays_it(server: Server, client: http.InferenceServerClient) -> None:
    expected, _ = generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=60)
    pid = component(server)["pid"]
    running = in_background(lambda: generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=60))
    wait_for_sampling(server)
    client.unload_model("wan21_transformer")
    result = running.get(timeout=90)
    assert not isinstance(result, Exception), result
    assert result[0] == expected and component(server)["pid"] != pid


def test_a_killed_component_fails_its_request_clearly_and_only_that(server: Server) -> None:
    generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=2)
    running = in_background(lambda: generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=100))
    wait_for_sampling(server)
    os.kill(component(server)["pid"], signal.SIGKILL)
    result = running.get(timeout=60)
    assert isinstance(result, InferenceServerException) and "wan21_transformer died" in str(result)
    video, _ = generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=2)
    assert video[4:8] == b"ftyp"


def test_a_component_killed_while_idle_costs_no_request(server: Server) -> None:
    generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=2)
    os.kill(component(server, "wan21_vae")["pid"], signal.SIGKILL)
    time.sleep(0.2)
    assert component(server, "wan21_vae")["state"] == "dead"
    video, _ = generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=2)
    assert video[4:8] == b"ftyp"


def test_cancelling_the_stream_stops_within_a_step(server: Server) -> None:
    generate(server.http_url, prompt=PROMPT, seed=6, num_inference_steps=2)
    answers: queue.Queue[Any] = queue.Queue()
    client = grpc.InferenceServerClient(server.grpc_url)
    client.start_stream(lambda result, error: answers.put((result, error)))
    inputs = [grpc.InferInput("prompt", [1], "BYTES"), grpc.InferInput("num_inference_steps", [1], "INT32")]
    import numpy as np

    inputs[0].set_data_from_numpy(np.array([PROMPT.encode()], dtype=np.object_))
    inputs[1].set_data_from_numpy(np.array([100], np.int32))
    client.async_stream_infer("wan21_stream", inputs)
    for _ in range(6):
        answers.get(timeout=30)
    assert len(status(server.http_url)["leases"]) == 1
    client.stop_stream(cancel_requests=True)
    deadline = time.monotonic() + 1.5
    while status(server.http_url)["leases"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not status(server.http_url)["leases"]


def test_many_at_once_all_arrive(server: Server) -> None:
    jobs = [in_background(lambda seed=seed: generate(server.http_url, prompt=PROMPT, seed=seed, num_inference_steps=3))
            for seed in range(6)]  # fmt: skip
    results = [job.get(timeout=120) for job in jobs]
    assert all(isinstance(result, tuple) for result in results), results
    assert len({result[0] for result in results}) == 6
    assert status(server.http_url)["leases"] == []


@pytest.fixture
def own_home(copied_home: Path, tmp_path: Path) -> Path:
    shutil.copytree(copied_home / "artifacts", tmp_path / "artifacts")
    return tmp_path


def test_a_changed_or_truncated_artifact_is_refused_until_it_is_mended(own_home: Path) -> None:
    transformer = own_home / "artifacts/wan21/demo/transformer/fp8-cpu"
    weights = max(transformer.glob("model.onnx*"), key=lambda path: path.stat().st_size)
    whole = weights.read_bytes()
    vae = next((own_home / "artifacts/wan21/demo/vae/fp32-cpu").glob("*.safetensors"))
    whole_vae = vae.read_bytes()
    server = start_server(own_home, "--family", "wan21")
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InferenceServerException, match=f"{weights.name} has SHA-256"):
            generate(server.http_url, prompt=PROMPT, num_inference_steps=2)
        weights.write_bytes(whole)
        with http.InferenceServerClient(server.http_url) as client:
            assert client.is_server_ready()  # what cannot be loaded is one component's problem
            client.unload_model("wan21_vae")
        vae.write_bytes(whole_vae[: len(whole_vae) // 2])
        with pytest.raises(InferenceServerException, match=f"{vae.name} has {len(whole_vae) // 2} bytes"):
            generate(server.http_url, prompt=PROMPT, num_inference_steps=2)
        assert status(server.http_url)["components"]["wan21_vae"]["state"] == "failed"
        vae.write_bytes(whole_vae)
        video, _ = generate(server.http_url, prompt=PROMPT, num_inference_steps=2)
        assert video[4:8] == b"ftyp"
    finally:
        assert server.stop() == 0
    assert not list((own_home / "run").rglob("wan21*.json"))
