"""Triton's repository API as the engine manager uses it, on a real server."""

import json

import pytest
from tritonclient import http

from tests.conftest import Server
from videosdgx.serving.settings import Settings
from videosdgx.serving.triton.control import ModelControlFailed, load_model, unload_model


def test_the_wildcard_addresses_are_reached_over_loopback() -> None:
    def url(address: str) -> str:
        settings = {"home": "/h", "target": "cpu", "families": {}, "http_port": 1, "grpc_port": 2, "metrics_port": 3}
        return Settings.model_validate_json(json.dumps({**settings, "address": address})).http_url()

    assert url("127.0.0.1") == url("0.0.0.0") == "http://127.0.0.1:1"
    assert url("::") == url("::1") == "http://[::1]:1"
    assert url("10.1.2.3") == "http://10.1.2.3:1"


@pytest.mark.server
def test_a_component_comes_and_goes(tiny_server: Server) -> None:
    url = f"http://{tiny_server.http_url}"
    with http.InferenceServerClient(tiny_server.http_url) as client:
        load_model(url, "wan21_vae")
        assert client.is_model_ready("wan21_vae")
        unload_model(url, "wan21_vae")


@pytest.mark.server
def test_failed_loads_say_why_and_harm_nobody(tiny_server: Server) -> None:
    for _ in range(3):
        with pytest.raises(ModelControlFailed, match="wan21_nothing"):
            load_model(f"http://{tiny_server.http_url}", "wan21_nothing")
    with http.InferenceServerClient(tiny_server.http_url) as client:
        assert client.is_server_ready()
