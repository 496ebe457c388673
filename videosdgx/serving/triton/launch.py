"""Finding, preparing and running a Triton server: NVIDIA's container on the Spark, the server in a wheel elsewhere."""

import ctypes
import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from videosdgx.home import CHECKOUT
from videosdgx.serving.settings import VARIABLE, Settings

CONTAINER = Path("/opt/tritonserver")
# Loading a 14B engine takes minutes; Triton's default gives a model's process 30 s (docs/design.md, rule 7).
STUB_TIMEOUT_SECONDS = 900
# How long a stopping server waits for running generations.
EXIT_SECONDS = 10

# Without a GPU Triton complains of what it cannot find there.
CPU_ONLY = ["--allow-gpu-metrics=false", "--pinned-memory-pool-byte-size=0"]


class ServerProblem(Exception):
    """The server cannot be started; the message is one line that says what to do."""


@dataclass(frozen=True)
class Installation:
    """A Triton server on this machine: its program and the folder of its backends."""

    program: Path
    backends: Path


def find_triton(scratch: Path) -> Installation:
    """NVIDIA's container if this runs in it, else the server inside the nvidia-pytriton wheel.

    Args:
        scratch: a folder where the wheel's Python backend is put together with the stub for this interpreter.

    Raises:
        ServerProblem: there is none, or none for this version of Python.
    """
    if (CONTAINER / "bin" / "tritonserver").exists():
        return Installation(CONTAINER / "bin" / "tritonserver", CONTAINER / "backends")
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        raise ServerProblem("no Triton server here: pip install -e '.[serve,embedded]', or run in NVIDIA's container")
    bundled = Path(found.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = bundled / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        have = sorted(path.name for path in (bundled / "python_backend_stubs").glob("3.*"))
        raise ServerProblem(f"the embedded Triton has no stub for Python {version}: use one of {', '.join(have)}")
    # The stub must lie beside the backend's library; the wheel keeps one per version of Python elsewhere.
    backend = scratch / "backends" / "python"
    shutil.rmtree(backend, ignore_errors=True)
    backend.mkdir(parents=True)
    for source in [*(bundled / "backends" / "python").glob("*.*"), stub]:
        (backend / source.name).symlink_to(source)
    return Installation(bundled / "bin" / "tritonserver", backend.parent)


def python_library_folder() -> str | None:
    """The folder of this interpreter's shared library, which Triton's stub has to find before any other of that version.

    None if the system's loader finds it by itself.

    Raises:
        ServerProblem: this Python was built without a shared library.
    """
    library = sysconfig.get_config_var("INSTSONAME") or f"libpython{sysconfig.get_python_version()}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR") or ""
    if library.endswith(".a"):
        library = f"libpython{sysconfig.get_python_version()}.so.1.0"
    if (Path(folder) / library).exists():
        return folder
    try:
        ctypes.CDLL(library)
    except OSError:
        raise ServerProblem(
            f"Triton's Python backend needs {library}, which this Python has not: apt-get install libpython"
            f"{sysconfig.get_python_version()}, or use a Python that was built with --enable-shared"
        ) from None
    return None


def command_line(triton: Installation, settings: Settings, verbose: bool) -> list[str]:
    """Triton's arguments: explicit model control, and only the light models at the start."""
    always = ["engine_manager"]
    for family in settings.families:
        always += [f"{family}_stream", family]
    return [
        str(triton.program),
        f"--model-repository={CHECKOUT / 'model_repository'}",
        f"--backend-directory={triton.backends}",
        "--model-control-mode=explicit",
        # Else the server says that it is not ready whenever a component is being loaded, or could not be.
        "--strict-readiness=false",
        *(f"--load-model={name}" for name in always),
        f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_SECONDS}",
        f"--http-address={settings.address}",
        f"--grpc-address={settings.address}",
        f"--metrics-address={settings.address}",
        f"--http-port={settings.http_port}",
        f"--grpc-port={settings.grpc_port}",
        f"--metrics-port={settings.metrics_port}",
        f"--exit-timeout-secs={EXIT_SECONDS}",
        "--model-load-thread-count=4",
        "--disable-auto-complete-config",
        f"--log-info={'true' if verbose else 'false'}",
        f"--log-warning={'true' if verbose else 'false'}",
        *(CPU_ONLY if settings.target == "cpu" else []),
    ]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of the server and of its models: this interpreter's packages, this checkout, the settings."""
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    libraries = [folder for folder in (python_library_folder(), os.environ.get("LD_LIBRARY_PATH")) if folder]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        VARIABLE: settings.model_dump_json(),
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": str(CHECKOUT),
        # A server never fetches anything on its own: what it loads was exported and verified.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        # PyTorch's threads otherwise spin while they wait for each other, which on busy cores costs a time slice at every
        # barrier: the MAGI-1 demo made its clip in 39 s at a load of 5 on two cores, and like this in 6 s at a load of 9.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }


def check_port(address: str, port: int, option: str) -> None:
    """Raise ServerProblem if a port cannot be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ServerProblem(
                f"port {port} on {address} cannot be used ({error.strerror}): choose another with {option}"
            ) from None


def check_shared_memory(least: int = 256 << 20) -> None:
    """Raise ServerProblem if /dev/shm, through which Triton's processes talk, has less than `least` bytes free."""
    free = shutil.disk_usage("/dev/shm").free
    if free < least:
        raise ServerProblem(
            f"/dev/shm has {free >> 20} MB free, at least {least >> 20} MB are needed: free some, "
            "or start the container with --shm-size=2g"
        )
