"""The Triton model that holds weights: one class serves the components of every family.

A component's process writes a small record when it is ready, so that the engine manager and a person can tell from
outside whether it lives, what it loaded and how much memory it takes.
"""

import atexit
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import triton_python_backend_utils as pb_utils

from videosdgx.artifacts import verify, write_atomically
from videosdgx.engines.engine import Engine, StatefulEngine
from videosdgx.families import FAMILIES
from videosdgx.families.spec import load
from videosdgx.serving.names import RELEASE, SECONDS, split_model
from videosdgx.serving.settings import Settings, load_settings


def open_component(settings: Settings, family: str, component: str) -> tuple[Engine, Path]:
    """Verify and load the artifact that serves a component.

    Raises:
        ArtifactError: the artifact is missing, changed, or not to be served.
        ValueError: the family has no such component.
    """
    directory = settings.artifact(family, component)
    settings.refuse_unwanted(directory)
    # Only now, as it may import PyTorch for seconds.
    opener = load(FAMILIES[family].component(component).opener)
    return opener(directory, verify(directory)), directory


def _leave_at_once() -> None:
    """End this process, the backend's own, which is done with it, without taking Python's modules down one by one.

    That takes PyTorch more than a second, and gives nothing back that the end of the process does not.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class ComponentModel:
    """`TritonPythonModel` of every component; its name says which family and component it is."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the artifact; a failure becomes the error of Triton's load call."""
        # What is registered first runs last: after what the libraries that are imported from here on have registered.
        atexit.register(_leave_at_once)
        started = time.monotonic()
        self.name = args["model_name"]
        settings = load_settings()
        family, component = split_model(self.name)
        self.engine, directory = open_component(settings, family, component)
        config = json.loads(args["model_config"])
        self.input_names = [entry["name"] for entry in config["input"]]
        self.record = settings.component_record(self.name)
        self.facts = {
            "pid": os.getpid(),
            "artifact": str(directory.relative_to(settings.home)),
            "loaded_seconds": round(time.monotonic() - started, 3),
        }
        if FAMILIES[family].component(component).stateful:
            self._stateful.on_change = self._write_record
            self._write_record(self._stateful.facts())
        else:
            self._write_record({})

    @property
    def _stateful(self) -> StatefulEngine:
        return cast(StatefulEngine, self.engine)  # so says the family's table

    def _write_record(self, held: dict[str, int]) -> None:
        """`held`: what the component keeps for generations, if it is of the kind that does."""
        write_atomically(self.record, json.dumps({**self.facts, **held}).encode())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the engine on each request; `seconds` is the engine's own time, so that overhead can be told from work."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            given = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.input_names}
            inputs = {name: tensor.as_numpy() for name, tensor in given.items() if tensor is not None}
            started = time.perf_counter()
            outputs = self._run(inputs)
            seconds = np.array([time.perf_counter() - started], np.float64)
        except Exception as error:  # one that crosses into Triton leaks shared memory (docs/design.md, rule 6)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.name}: {error}"))
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items()]
        return pb_utils.InferenceResponse([*tensors, pb_utils.Tensor(SECONDS, seconds)])

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if RELEASE not in inputs:
            return self.engine.run(inputs)
        self._stateful.release(inputs[RELEASE][0].decode())
        return {}

    def finalize(self) -> None:
        """Unload. The process ends right after, which returns all its memory."""
        with contextlib.suppress(OSError):
            # While this process unloads, another may have been loaded already and have written its own record.
            if json.loads(self.record.read_bytes())["pid"] == os.getpid():
                self.record.unlink()
        self.engine.close()
