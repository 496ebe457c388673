"""The Triton model of a component, without Triton: what reaches the engine, and what does not."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.fake_triton import Request
from videosdgx.serving.models import component
from videosdgx.serving.settings import FamilySettings, Settings


class Engine:
    """Keeps something for every generation until it is released."""

    def __init__(self) -> None:
        self.kept = {"g": 1, "h": 2}
        self.on_change: Callable[[dict[str, int]], None] = lambda facts: None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array + 1 for name, array in inputs.items()}

    def release(self, generation: str) -> None:
        if generation == "broken":
            raise RuntimeError("cannot")
        self.kept.pop(generation, None)
        self.on_change(self.facts())

    def facts(self) -> dict[str, int]:
        return {"generations": len(self.kept), "state_bytes": sum(self.kept.values())}

    def close(self) -> None: ...


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> component.ComponentModel:
    chosen = FamilySettings(variant="demo", precision="nvfp4")
    settings = Settings(home=tmp_path, target="cpu", families={"magi1": chosen}, http_port=1, grpc_port=2, metrics_port=3)
    monkeypatch.setattr(component, "load_settings", lambda: settings)
    monkeypatch.setattr(component, "open_component", lambda *_: (Engine(), tmp_path / "artifacts" / "x"))
    monkeypatch.setattr(component.atexit, "register", lambda function: None)
    made = component.ComponentModel()
    config = {"input": [{"name": name} for name in ("hidden_states", "release")]}
    made.initialize({"model_name": "magi1_transformer", "model_config": json.dumps(config)})
    return made


def record(model: component.ComponentModel) -> dict[str, Any]:
    return json.loads(model.record.read_bytes())


def test_a_release_reaches_the_engine_alone_and_its_record_tells(model: component.ComponentModel) -> None:
    assert record(model)["generations"] == 2 and record(model)["state_bytes"] == 3
    (answer,) = model.execute([Request(release=np.array([b"g"], np.object_))])
    assert answer.error is None and list(answer.outputs) == ["seconds"]
    assert record(model)["generations"] == 1 and record(model)["state_bytes"] == 2


def test_everything_else_is_run(model: component.ComponentModel) -> None:
    (answer,) = model.execute([Request(hidden_states=np.zeros(2, np.float32))])
    assert answer.outputs["hidden_states"].tolist() == [1, 1] and answer.outputs["seconds"].shape == (1,)


def test_a_release_that_fails_is_an_error_of_its_request(model: component.ComponentModel) -> None:
    failed, fine = model.execute([Request(release=np.array([name], np.object_)) for name in (b"broken", b"h")])
    assert failed.error.message() == "magi1_transformer: cannot" and fine.error is None
