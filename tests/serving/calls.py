"""Calls that the tests make with Triton's own clients and over plain HTTP, as a user would."""

import json
import urllib.request
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import triton_to_np_dtype

from videosdgx.families import FAMILIES

DTYPES = {name: one.datatype for family in FAMILIES.values() for name, one in family.inputs.items()}


def tensor(name: str, value: Any, dtype: str | None = None, kind: ModuleType = http) -> Any:
    """An input with one value, or with those of a list, of the type that the table has or of another; for HTTP or gRPC."""
    dtype = dtype or DTYPES[name]
    items = [item.encode() if isinstance(item, str) else item for item in (value if isinstance(value, list) else [value])]
    made = kind.InferInput(name, [len(items)], dtype)
    made.set_data_from_numpy(np.array(items, dtype=triton_to_np_dtype(dtype)))
    return made


def tensors(values: dict[str, Any], kind: ModuleType = http) -> list[Any]:
    return [tensor(name, value, kind=kind) for name, value in values.items()]


def generate(url: str, family: str, **values: Any) -> tuple[bytes, dict[str, Any]]:
    """The `video` output and the metadata of the model that answers once, over HTTP."""
    with http.InferenceServerClient(url, network_timeout=120, connection_timeout=120) as client:
        return outputs(client.infer(family, tensors(values)))


def generate_over_grpc(url: str, family: str, **values: Any) -> tuple[bytes, dict[str, Any]]:
    with grpc.InferenceServerClient(url) as client:
        return outputs(client.infer(family, tensors(values, grpc)))


def outputs(result: Any) -> tuple[bytes, dict[str, Any]]:
    return result.as_numpy("video")[0], json.loads(result.as_numpy("metadata")[0])


def status(url: str) -> dict[str, Any]:
    command = http.InferInput("command", [1], "BYTES")
    command.set_data_from_numpy(np.array([b'{"action": "status"}'], dtype=np.object_))
    with http.InferenceServerClient(url) as client:
        return json.loads(client.infer("engine_manager", [command]).as_numpy("result")[0])


def post(url: str, body: dict[str, object]) -> str:
    """The answer to JSON over plain HTTP."""
    request = urllib.request.Request(f"http://{url}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode()


def generate_stream(url: str, family: str, **values: Any) -> list[dict[str, Any]]:
    """Every answer of the stream over plain HTTP; events and metadata are read already."""
    lines = post(f"{url}/v2/models/{family}_stream/generate_stream", values).splitlines()
    answers = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [
        {name: json.loads(value) if name in ("event", "metadata") else value for name, value in answer.items()}
        for answer in answers
    ]
