"""`<family>_stream`: does the work of a generation and tells each event as it happens.

A family that makes a clip in chunks sends each as a fragment of an MP4, in the `video` of its event. A request with the
parameter `whole` gets the file at the end instead, as from every other family.
"""

import importlib
import threading
import uuid
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from videosdgx.artifacts import PIPELINE, verify
from videosdgx.families import FAMILIES
from videosdgx.families.networks import Generate
from videosdgx.families.request import InvalidInput, parse_request
from videosdgx.families.spec import FamilySpec, load
from videosdgx.serving.clock import Clock
from videosdgx.serving.errors import as_triton_error, event_from_error
from videosdgx.serving.generation import Generation
from videosdgx.serving.parameters import CANCEL, WHOLE, read_parameters
from videosdgx.serving.settings import load_settings
from videosdgx.serving.triton.calls import as_json

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def read_inputs(request: Any, spec: FamilySpec) -> dict[str, Any]:
    """The inputs that a request gives, as Python values: a list where the table allows any number of them."""
    values: dict[str, Any] = {}
    for tensor in request.inputs():
        given = tensor.as_numpy().reshape(-1).tolist()
        # Triton has compared the shapes with those of the table: whatever is no list has one value.
        values[tensor.name()] = given if spec.inputs[tensor.name()].is_list else given[0]
    return values


def response(video: bytes | None = None, **tensors: np.ndarray) -> Any:
    """A response with those outputs, and with `video` if there is one."""
    if video is not None:
        tensors["video"] = np.array([video], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in tensors.items()])


class StreamModel:
    """`TritonPythonModel` of `<family>_stream`: decoupled, one thread per generation, events as they happen."""

    def initialize(self, args: dict[str, str]) -> None:
        """Return at once; torch and diffusers are imported beside it, so that the server is ready early."""
        self.name = args["model_name"]
        self.family = self.name.removesuffix("_stream")
        self.settings = load_settings()
        self.spec = FAMILIES[self.family]
        self.spec.variant(self.settings.families[self.family].variant)  # an unknown one is told now
        self._pipeline: tuple[Generate, Any] | None = None
        self._pipeline_lock = threading.Lock()
        self._cancelled: dict[str, threading.Event] = {}
        threading.Thread(target=self._prepare, daemon=True).start()

    def _prepare(self) -> None:
        try:
            self._family_pipeline()
        except Exception as error:
            # The next request tries again and carries the error to its client.
            print(f"{self.name}: not ready to generate: {error}", flush=True)

    def _family_pipeline(self) -> tuple[Generate, Any]:
        with self._pipeline_lock:
            if self._pipeline is None:
                verify(self.settings.artifact(self.family, PIPELINE))
                generate = load(self.spec.generate)
                importlib.import_module("torch").set_num_threads(1)  # the loop does little; the components need the cores
                self._pipeline = generate, load("videosdgx.families.prompts:PromptCache")()
            return self._pipeline

    def execute(self, requests: list[Any]) -> None:
        """Start a thread for each request and return, so that the next request is seen.

        A request with the parameter `cancel` ends the generation of that request id. Requests are noted here, in the
        order of their arrival, so that it finds a generation that was sent just before it.
        """
        for request in requests:
            sender = request.get_response_sender()
            generation_id = request.request_id() or uuid.uuid4().hex
            try:
                parameters = read_parameters(request.parameters(), self.spec)
            except InvalidInput as error:
                self._fail(sender, generation_id, error)
                sender.send(flags=FINAL)
                continue
            to_cancel = parameters.get(CANCEL)
            if to_cancel:
                if to_cancel in self._cancelled:
                    self._cancelled[to_cancel].set()
                sender.send(flags=FINAL)
                continue
            in_use = generation_id in self._cancelled
            cancelled = None if in_use else self._cancelled.setdefault(generation_id, threading.Event())
            whole = parameters.get(WHOLE, False)
            threading.Thread(target=self._serve, args=(request, sender, generation_id, cancelled, whole), daemon=True).start()

    def _serve(self, request: Any, sender: Any, generation_id: str, cancelled: threading.Event | None, whole: bool) -> None:
        try:
            if cancelled is None:
                raise InvalidInput(f"request id {generation_id!r} is in use by a generation that still runs")
            try:
                self._generate(request, sender, generation_id, cancelled, whole)
            finally:
                del self._cancelled[generation_id]
        except Exception as error:  # errors are values (docs/design.md, rule 6)
            self._fail(sender, generation_id, error)
        finally:
            # On its own: a last response that carries both the flag and an error never reaches a caller inside Triton.
            sender.send(flags=FINAL)

    def _fail(self, sender: Any, generation_id: str, error: Exception) -> None:
        told = as_triton_error(error, self.name)
        sender.send(response(event=as_json(event_from_error(told, generation_id))))
        sender.send(pb_utils.InferenceResponse(error=told))

    def _generate(self, request: Any, sender: Any, generation_id: str, cancelled: threading.Event, whole: bool) -> None:
        wanted = parse_request(read_inputs(request, self.spec), self.spec, self.settings.variant(self.family))

        def emit(event: dict[str, Any], video: bytes | None = None) -> None:
            if event["phase"] != "done":  # the last event travels with the result
                sender.send(response(event=as_json(event), video=video))
            else:
                last_event.update(event)

        last_event: dict[str, Any] = {}
        clock = Clock(generation_id, wanted.num_inference_steps, emit, lambda: cancelled.is_set() or sender.is_cancelled())
        clock.phase("queued")
        video, metadata = Generation(self.settings, self.family, self._family_pipeline, wanted, clock, whole).run()
        sender.send(response(event=as_json(last_event), video=video, metadata=as_json(metadata)))
