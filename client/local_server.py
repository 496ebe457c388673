"""A server of one's own for a while: `videosdgx serve` on free ports, for the demo and the benchmark."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.errors import ClientError
from client.video_client import VideoClient

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class LocalServer:
    """A running server: its HTTP address, and the seconds from the command to its being ready."""

    url: str
    ready_seconds: float


def program() -> str:
    """The `videosdgx` command that belongs to this interpreter."""
    return str(Path(sys.executable).parent / "videosdgx")


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def local_server(options: Sequence[str], log: Path) -> Iterator[LocalServer]:
    """Start a server, wait until it is ready, stop it at the end. To be used in the main thread.

    Args:
        options: more options of `videosdgx serve`.
        log: where its messages go.

    Raises:
        ClientError: it ended, or was not ready within two minutes; the message has its last words.
    """
    http, grpc, metrics = free_ports(3)
    command = [program(), "serve", "--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(metrics)]
    log.parent.mkdir(parents=True, exist_ok=True)
    # Told to end, we stop the server first, as after Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_ready(process, VideoClient(f"127.0.0.1:{http}"), log)
            yield LocalServer(f"127.0.0.1:{http}", time.monotonic() - started)
        finally:
            _stop(process)
            signal.signal(signal.SIGTERM, before)


def _wait_until_ready(process: "subprocess.Popen[bytes]", client: VideoClient, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not client.ready():
        lines = log.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        if process.poll() is not None:
            raise ClientError(f"the server ended with code {process.returncode}: {last} (more in {log})")
        if time.monotonic() > deadline:
            raise ClientError(f"the server was not ready within {READY_SECONDS:.0f} s: {last} (more in {log})")
        time.sleep(POLL_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
