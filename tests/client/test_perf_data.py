"""perf_analyzer's input data fits the models that it is named after."""

import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT

FILES = sorted((CHECKOUT / "client" / "perf").glob("*.json"))
KINDS = {"TYPE_STRING": str, "TYPE_INT32": int, "TYPE_INT64": int, "TYPE_FP32": float}


def test_there_is_input_data_for_every_family() -> None:
    assert {path.stem for path in FILES} == set(FAMILIES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_input_data_fits_the_model(path: Path) -> None:
    config = model_config_pb2.ModelConfig()
    text_format.Parse((CHECKOUT / "model_repository" / path.stem / "config.pbtxt").read_text(), config)
    inputs = {entry.name: entry for entry in config.input}
    required = {name for name, entry in inputs.items() if not entry.optional}
    requests = json.loads(path.read_text())["data"]
    assert requests
    for request in requests:
        assert required <= request.keys() <= inputs.keys()
        # perf_analyzer wants every request of a file to give the same inputs.
        assert request.keys() == requests[0].keys()
        for name, values in request.items():
            assert [len(values)] == list(inputs[name].dims)
            kind = KINDS[model_config_pb2.DataType.Name(inputs[name].data_type)]
            assert all(isinstance(value, kind) for value in values)
