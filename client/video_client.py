"""The Python client.

    from client import VideoClient

    with VideoClient("localhost:8000") as client:
        client.generate("wan21", "a red circle moving right on a teal background", seed=7).save("x.mp4")

Control (load, unload, status) goes over HTTP. Generations go over a gRPC stream, the only way on which Triton both tells
the progress and notices that the client no longer wants the result.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from client import stream
from client.errors import ClientError, InvalidValue, ServerError, ServerUnavailable, one_line
from client.inputs import Value, to_tensors
from client.results import Chunk, Event, Video

DEFAULT_URL = "localhost:8000"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Loading a 14B engine from disk takes minutes; unloading waits for the requests that use the model.
LOAD_SECONDS = 900.0
POLL_SECONDS = 0.05
# tritonclient's words for an answer that is not Triton's.
NOT_TRITON = ("while decoding the response", "received an empty response", "Method Not Allowed")


def split_url(url: str) -> tuple[str, int]:
    """`localhost:8000`, `http://localhost:8000` or `[::1]:8000` as host and port; without a port it is 8000.

    Raises:
        ClientError: not of that form.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, 8000 if parts.port is None else parts.port
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme != "http" or parts.path not in ("", "/"):
        raise ClientError(f"the server's url is {url!r}, it must be HOST:PORT such as {DEFAULT_URL}")
    return (f"[{host}]" if ":" in host else host), port


class VideoClient:
    """Talks to one server; may be used from several threads at once.

    Every method raises `ServerUnavailable` if nothing answers and `ServerError` if the server refuses.
    """

    def __init__(self, url: str = DEFAULT_URL):
        """`url` is that of Triton's HTTP endpoint; the gRPC port is asked from the server."""
        self._host, port = split_url(url)
        self.url = f"{self._host}:{port}"

    def __enter__(self) -> "VideoClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between two calls; here so that the client can be used like Triton's own."""

    def generate(
        self,
        family: str,
        prompt: str,
        *,
        on_progress: Callable[[Event], None] | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
        timeout: float | None = None,
        **inputs: Value | None,
    ) -> Video:
        """Make a video and wait for it. What is not given, the server chooses; the metadata tells what it chose.

        An exception on the way, Ctrl-C and one raised by a callback included, cancels the generation on the server.

        Args:
            family: such as `wan21`.
            prompt: what the video shows.
            on_progress: called with every event, in the caller's thread.
            on_chunk: called with every chunk as soon as the server has it, for families that make a clip in chunks.
            timeout: seconds; None waits for ever.
            inputs: the family's other inputs, such as `seed=7, duration=2.0`; the README has a table of them. Files are given
                as their bytes, and None is as good as nothing.

        Raises:
            InvalidValue: the family has no such input, or a value does not fit its input's type.
            ServerError: the server refused or failed; its message names the input and the limit.
            GenerationTimeout: `timeout` passed.
        """
        response_format = inputs.get("response_format")
        if on_chunk is not None and response_format not in (None, "mp4"):
            raise InvalidValue(f"response_format is {response_format!r}, with on_chunk it must be mp4")
        ports = self._manager("ports")
        if family not in ports["families"]:
            raise ServerError(f"there is no family {family!r} at {self.url}, it serves {', '.join(ports['families'])}")
        with self._http() as http:
            model = http.get_model_metadata(f"{family}_stream")
        tensors = to_tensors({"prompt": prompt, **inputs}, model)
        address = f"{self._host}:{ports['grpc_port']}"
        return stream.generate(address, model["name"], tensors, on_progress, on_chunk, timeout)

    def load(self, name: str) -> None:
        """Load a model, such as `wan21_transformer`, and wait until it is ready."""
        with self._http(LOAD_SECONDS) as http:
            http.load_model(name)

    def unload(self, name: str) -> None:
        """Unload a model and wait until it is gone, which requests that use it may delay.

        Raises:
            ServerError: there is no such model, or it is still there after 15 minutes.
        """
        deadline = time.monotonic() + LOAD_SECONDS
        self._state(name)
        with self._http() as http:
            http.unload_model(name)
        while self._state(name) in ("READY", "UNLOADING"):
            if time.monotonic() > deadline:
                raise ServerError(f"{name} is still in use after {LOAD_SECONDS:.0f} s, it goes when its requests end")
            time.sleep(POLL_SECONDS)

    def _state(self, name: str) -> str:
        states = {model["name"]: model["state"] for model in self.models()}
        if name not in states:
            raise ServerError(f"there is no model {name!r} at {self.url}, it has {', '.join(states)}")
        return states[name]

    def models(self) -> list[dict[str, str]]:
        """Every model of the repository: `name`, `state` (READY, UNAVAILABLE, LOADING, UNLOADING or empty), `reason`."""
        with self._http() as http:
            index = http.get_model_repository_index()
        entries = [{key: str(entry.get(key, "")) for key in ("name", "state", "reason")} for entry in index]
        return sorted(entries, key=lambda entry: entry["name"])

    def status(self) -> dict[str, Any]:
        """What the engine manager knows: version, home, ports, families, components, leases, memory."""
        return self._manager("status")

    def _manager(self, action: str) -> dict[str, Any]:
        """What the engine manager answers to a command without arguments."""
        command = tritonclient.http.InferInput("command", [1], "BYTES")
        command.set_data_from_numpy(np.array([json.dumps({"action": action}).encode()], dtype=np.object_))
        with self._http() as http:
            answer = http.infer("engine_manager", [command])
        result: dict[str, Any] = json.loads(answer.as_numpy("result")[0])
        return result

    def ready(self) -> bool:
        """Whether a server answers and its always loaded models are ready; never raises."""
        try:
            with self._http() as http:
                return bool(http.is_server_ready())
        except ClientError:
            return False

    @contextmanager
    def _http(self, seconds: float = ANSWER_SECONDS) -> Iterator[Any]:
        """Triton's HTTP client, for one call: it belongs to the thread that made it."""
        http = tritonclient.http.InferenceServerClient(self.url, connection_timeout=CONNECT_SECONDS, network_timeout=seconds)
        try:
            yield http
        except InferenceServerException as error:
            if any(phrase in error.message() for phrase in NOT_TRITON):
                raise ServerUnavailable(f"what answers at {self.url} is not Triton's HTTP endpoint") from None
            raise ServerError(one_line(error.message())) from None
        except TimeoutError:
            raise ServerUnavailable(f"the server at {self.url} did not answer within {seconds:.0f} s") from None
        except (HTTPParseError, ConnectionResetError, ValueError):
            raise ServerUnavailable(f"what answers at {self.url} is not Triton's HTTP endpoint") from None
        except OSError:
            raise ServerUnavailable(f"no server at {self.url}: start one with videosdgx serve") from None
        finally:
            http.close()
