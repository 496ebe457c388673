"""`<family>`: one answer per request, from the last word of `<family>_stream`."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils

from videosdgx.families import FAMILIES
from videosdgx.serving.errors import as_triton_error, error_from_event
from videosdgx.serving.parameters import CANCEL, WHOLE, read_parameters
from videosdgx.serving.triton import calls


class SyncModel:
    """`TritonPythonModel` of `<family>`: HTTP clients and perf_analyzer work with it as they are."""

    def initialize(self, args: dict[str, str]) -> None:
        """Nothing to load: all work happens in `<family>_stream`."""
        self.name = args["model_name"]
        self.stream = f"{self.name}_stream"
        # The responses of a decoupled model have to be read outside the thread that calls `execute`: read in it, the
        # end of the responses never arrives (Triton 2.51).
        self._reader = ThreadPoolExecutor(max_workers=1)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Forward each request and wait for its result."""
        return [self._reader.submit(self._answer, request).result() for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            return self._forward(request)
        except Exception as error:  # errors are values (docs/design.md, rule 6)
            return pb_utils.InferenceResponse(error=as_triton_error(error, self.name))

    def _forward(self, request: Any) -> Any:
        read_parameters(request.parameters(), FAMILIES[self.name], (WHOLE,))  # the answer is whole in any case
        generation_id = request.request_id() or uuid.uuid4().hex
        stream = pb_utils.InferenceRequest(
            model_name=self.stream,
            request_id=generation_id,
            requested_output_names=["event", "video", "metadata"],
            inputs=list(request.inputs()),
            parameters={WHOLE: True},
        )
        result, asked_to_stop = None, False
        # Always to the end: responses that nobody reads stay in shared memory.
        for response in stream.exec(decoupled=True):
            if response.has_error():
                result = pb_utils.InferenceResponse(error=response.error())
                continue
            tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in response.output_tensors()}
            if "video" in tensors:
                names = [name for name in ("video", "metadata") if name in request.requested_output_names()]
                result = pb_utils.InferenceResponse([pb_utils.Tensor(name, tensors[name]) for name in names])
            elif "event" in tensors:
                # An error that follows other responses is lost on its way here (Triton 2.51), the event is not.
                error = error_from_event(json.loads(tensors["event"][0]))
                result = pb_utils.InferenceResponse(error=error) if error else result
            if request.is_cancelled() and not asked_to_stop:
                asked_to_stop = True
                self._stop(generation_id)
        if result is None:
            raise calls.CallFailed(f"{self.stream} ended without a result")
        return result

    def _stop(self, generation_id: str) -> None:
        cancel = pb_utils.InferenceRequest(
            model_name=self.stream,
            requested_output_names=["event"],
            inputs=[pb_utils.Tensor("prompt", calls.as_bytes(""))],
            parameters={CANCEL: generation_id},
        )
        list(cancel.exec(decoupled=True))
