"""What the rooms' tests share: exported demo artifacts and a real Triton server."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT, default_home

THREADS = torch.get_num_threads()  # as many as a component of a server has
VIDEOSDGX = str(Path(sys.executable).parent / "videosdgx")


@pytest.fixture(autouse=True, scope="module")
def every_thread() -> None:
    """Begin each module with all threads, whatever the one before it chose: the last bits of a sum depend on their number."""
    torch.set_num_threads(THREADS)


@dataclass
class Server:
    """A running `videosdgx serve`."""

    process: subprocess.Popen[bytes]
    home: Path
    log: Path
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def http_url(self) -> str:
        return f"localhost:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"localhost:{self.grpc_port}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(40)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start_server(home: Path, *arguments: str, seconds: float = 60) -> Server:
    http_port, grpc_port, metrics_port = free_ports(3)
    log = home / "server.log"
    command = [VIDEOSDGX, "serve", "--home", str(home), "--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    command += ["--metrics-port", str(metrics_port), "--verbose", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=CHECKOUT)
    server = Server(process, home, log, http_port, grpc_port, metrics_port)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{server.http_url}/v2/health/ready", timeout=1):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    raise AssertionError(f"the server did not become ready in {seconds} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="session")
def exported_home() -> Path:
    """The checkout's home with the demos exported for the CPU (a no-op when they are there already)."""
    home = default_home()

    def export(family: str, precisions: tuple[str, ...]) -> None:
        for precision in precisions:
            command = [VIDEOSDGX, "export", family, "--variant", "demo", "--precision", precision, "--target", "cpu"]
            subprocess.run([*command, "--home", str(home)], check=True, stdin=subprocess.DEVNULL)

    home.mkdir(parents=True, exist_ok=True)
    # An export computes on one core most of the time, so the families go side by side. Of two workers of pytest one exports.
    with (home / ".exported.lock").open("w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        list(pool.map(export, ("wan21", "magi1"), (("fp8", "nvfp4"), ("nvfp4",))))
    return home


@pytest.fixture(scope="session")
def copied_home(exported_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the exported artifacts for a server of the tests, so that outputs and records go nowhere else."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(exported_home / "artifacts", home / "artifacts")
    return home


@pytest.fixture(scope="session")
def running() -> Iterator[list[Server]]:
    """The servers of this session. All are told to stop before the first is waited for: each takes ten seconds."""
    servers: list[Server] = []
    yield servers
    for one in servers:
        one.process.send_signal(signal.SIGINT)
    codes = [one.end() for one in servers]
    if os.environ.get("SHOW_SERVER_LOG"):
        print(*(one.log.read_text() for one in servers), sep="\n")
    assert codes == [0] * len(servers)


@pytest.fixture(scope="session")
def server(copied_home: Path, running: list[Server]) -> Server:
    """One server for all tests that need a demo, and do not harm it; each leaves it working."""
    running.append(start_server(copied_home, "--family", "wan21", "--family", "magi1"))
    return running[-1]


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with artifacts of every family, from tiny checkpoints with random weights."""
    from tests.contract.tiny_home import write_tiny_home

    home = tmp_path_factory.mktemp("tiny")
    write_tiny_home(home)
    return home


@pytest.fixture(scope="session")
def tiny_server(tiny_home: Path, running: list[Server]) -> Server:
    """One server of every family with tiny random weights, for all tests that do not harm it; each leaves it working."""
    running.append(start_tiny_server(tiny_home))
    return running[-1]


def start_tiny_server(home: Path) -> Server:
    """A server of what `tests.contract.tiny_home` wrote."""
    from tests.contract.tiny_home import PRECISION

    chosen = [argument for family in FAMILIES for argument in ("--precision", f"{family}={PRECISION}")]
    return start_server(home, *chosen, "--target", "cpu")
