"""Calls that the serving tests make with tritonclient, as a user would."""

import json
import urllib.request
from typing import Any

import numpy as np
import tritonclient.http as http

from videosdgx.families import FAMILIES

DTYPES = {name: one.datatype for family in FAMILIES.values() for name, one in family.inputs.items()}
NUMPY = {"BYTES": np.object_, "INT64": np.int64, "INT32": np.int32, "FP32": np.float32}


def tensor(name: str, value: Any, dtype: str | None = None) -> http.InferInput:
    dtype = dtype or DTYPES[name]
    array = np.array([value.encode() if isinstance(value, str) else value], dtype=NUMPY[dtype])
    made = http.InferInput(name, [1], dtype)
    made.set_data_from_numpy(array)
    return made


def generate(url: str, family: str = "wan21", **values: Any) -> tuple[bytes, dict[str, Any]]:
    """The `video` output and the metadata of the sync model."""
    with http.InferenceServerClient(url, network_timeout=120, connection_timeout=120) as client:
        result = client.infer(family, [tensor(name, value) for name, value in values.items()])
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
