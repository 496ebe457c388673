"""One generation over one gRPC stream: its events, its video, its end.

A generation that is no longer wanted is ended by a second request on the same stream, not by cancelling the stream: the
Triton of the wheel (2.51) crashes now and then when a stream is cancelled while an answer is on its way (its issue 8034).
"""

import json
import queue
import time
import uuid
from collections.abc import Callable
from typing import Any

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from client.errors import ClientError, GenerationTimeout, ServerError, ServerUnavailable, one_line
from client.results import Chunk, Event, Video, parse_event, to_event
from videosdgx.media.fragments import whole_mp4

GRPC_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A proxy for the outside world cannot reach a server on this machine or on the desk.
    ("grpc.enable_http_proxy", 0),
]
# A server ends a generation within one sampling step; one that does not answer for this long has its stream cancelled.
END_SECONDS = 60.0

Answer = tuple[Any, Exception | None]


def generate(
    address: str,
    model: str,
    tensors: list[Any],
    on_progress: Callable[[Event], None] | None,
    on_chunk: Callable[[Chunk], None] | None,
    timeout: float | None,
) -> Video:
    """Send one request to `model` at the gRPC endpoint `address`, pass its events on, and return its video.

    Without `on_chunk` the server is asked to send the file at the end only.

    Whatever ends the wait before the video is there, Ctrl-C too, ends the work on the server.

    Raises:
        ServerError, ServerUnavailable: the server refused, failed or went away.
        GenerationTimeout: `timeout` seconds passed.
    """
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    request_id = uuid.uuid4().hex
    with tritonclient.grpc.InferenceServerClient(address, channel_args=GRPC_OPTIONS) as grpc:
        grpc.start_stream(lambda result, error: answers.put((result, error)))
        over = False
        try:
            grpc.async_stream_infer(model, tensors, request_id=request_id, parameters={"whole": on_chunk is None})
            try:
                video = _result(answers, on_progress, on_chunk, address, timeout)
                over = True
            except (ServerError, ServerUnavailable):
                over = True
                raise
            except BaseException:
                grpc.async_stream_infer(model, tensors, request_id=f"{request_id}-end", parameters={"cancel": request_id})
                over = _ended(answers)
                raise
        finally:
            grpc.stop_stream(cancel_requests=not over)
    return video


def _result(
    answers: "queue.SimpleQueue[Answer]",
    on_progress: Callable[[Event], None] | None,
    on_chunk: Callable[[Chunk], None] | None,
    address: str,
    timeout: float | None,
) -> Video:
    """Pass events and chunks on until the last answer, which has the metadata."""
    fragments = bytearray()
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            result, error = answers.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise GenerationTimeout(
                f"the generation was cancelled after {timeout} s, the time that the caller allowed"
            ) from None
        if error is not None:
            raise _explained(error, address) from None
        fields = parse_event(result.as_numpy("event")[0])
        if fields["phase"] == "failed":
            raise ServerError(one_line(fields["error"]))
        event, video, metadata = to_event(fields), result.as_numpy("video"), result.as_numpy("metadata")
        if on_chunk is not None and event.phase == "chunk" and video is not None:
            fragments += video[0]
            on_chunk(Chunk(event.chunk, event.chunks, video[0]))
        if on_progress is not None:
            on_progress(event)
        if metadata is not None:
            return Video(whole_mp4(bytes(fragments)) if video is None else video[0], json.loads(metadata[0]))


def _ended(answers: "queue.SimpleQueue[Answer]") -> bool:
    """Wait for the last answer of a generation that was told to end; False if none comes."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        try:
            result, error = answers.get(timeout=END_SECONDS)
        except queue.Empty:
            return False
        if error is not None or result.as_numpy("metadata") is not None:
            return True
    return False


def _explained(error: Exception, address: str) -> ClientError:
    """An error of the gRPC stream as one of this client's."""
    if isinstance(error, InferenceServerException) and error.status() == "StatusCode.UNAVAILABLE":
        return ServerUnavailable(f"no connection to the gRPC endpoint {address}: does the server run, is the port reachable?")
    return ServerError(one_line(error.message() if isinstance(error, InferenceServerException) else str(error)))
