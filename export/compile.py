"""ONNX to a TensorRT engine, strongly typed; one code path for the modules `tensorrt` and `tensorrt_rtx`.

`tensorrt_rtx` compiles for a named GPU on a machine that has none; `tensorrt` compiles for the GPU that it finds.

The weights are the memory. The parser maps their file: pages that the system may drop. The builder copies them about one
and a half times. The plan as one object in memory would be a further copy, so it goes to the disk in pieces as it is made.
"""

import ctypes
import importlib
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

from export.run.errors import ExportError
from export.run.progress import peak_memory
from videosdgx.artifacts import Memory, Profile

REVISION = 2  # raise it when the same graph becomes another engine than before
COPIES_OF_WEIGHTS = 1.5  # that the compiler makes of them in memory, at least
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_PR_SET_PDEATHSIG = 1  # of Linux' prctl
# What tensorrt_rtx says on a machine without a GPU, where it compiles all the same.
_NO_GPU = re.compile(r"cudaError 35|CUDA driver version is insufficient|no CUDA-capable device")


def _logger(trt: Any, messages: list[tuple[Any, str]]) -> Any:
    class Logger(trt.ILogger):
        """Keeps what the compiler says: it prints the memory figures and the errors nowhere else."""

        def log(self, severity: Any, message: str) -> None:
            messages.append((severity, message))

    return Logger()


class _Failed:
    """Why a file could not be written, if it could not."""

    error: OSError | None = None


def _writer(trt: Any, file: BinaryIO, failed: _Failed) -> Any:
    class Writer(trt.IStreamWriter):
        """Writes the plan to a file, in the pieces (64 MiB) that it comes in."""

        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:  # it must not go through the compiler
                failed.error = error
                return 0

    return Writer()


def _parse(trt: Any, builder: Any, logger: Any, onnx_path: Path) -> tuple[Any, Any]:
    """The network and its parser, which keeps the weights' file mapped until the engine is built."""
    flags = trt.NetworkDefinitionCreationFlag
    # TensorRT 10 has to be told; TensorRT 11 and RTX know nothing else.
    strongly_typed = 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        first = parser.get_error(0)
        raise ExportError(f"the compiler does not accept {onnx_path.name}: {first.node_name()}: {first.desc()}")
    return network, parser


def _configure(trt: Any, builder: Any, profiles: Sequence[Profile]) -> Any:
    config = builder.create_builder_config()
    # One stream: what runs beside something else cannot share its memory. 14B at 832x480, 81 frames, needs 0.4 GB less, and
    # its kernels fill the GPU one at a time.
    config.max_aux_streams = 0
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(trt.ComputeCapability.SM121, 0):
            raise ExportError(f"{trt.__name__} {trt.__version__} cannot compile for sm121: install 1.6 or newer")
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for name in profile.min:
            shapes.set_shape(name, profile.min[name], profile.opt[name], profile.max[name])
        config.add_optimization_profile(shapes)
    return config


def compile_engine(
    onnx_path: Path,
    plan_path: Path,
    profiles: Sequence[Profile],
    compiler: str,
    advance: Callable[[float], None],
    tell_peak: Callable[[int], None] = lambda _: None,
) -> list[Memory]:
    """Compile for sm121 and return the memory that the compiler reports, for each profile.

    `compiler` is `tensorrt_rtx` or `tensorrt`; `advance` is told 1 after parsing and 1 when done. The compiler runs in a
    process of its own: all its memory comes back, and if it crashes or is killed, this process lives to say so. `tell_peak` is
    told the most that it had resident, in bytes; the mapped weights, which the system could take back, are in it.

    Raises:
        ExportError: the compiler is not installed, refuses the graph, or died.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(
        target=_compile_in_child, args=(onnx_path, plan_path, list(profiles), compiler, theirs), daemon=True
    )
    child.start()
    theirs.close()
    try:
        while True:
            try:
                kind, value = ours.recv()
            except EOFError:
                child.join()
                raise ExportError(_obituary(compiler, onnx_path, child.exitcode)) from None
            if kind == "advance":
                advance(value)
            elif kind == "error":
                raise ExportError(value)
            elif kind == "peak":
                tell_peak(value)
            else:
                return [Memory.model_validate(one) for one in value]
    finally:
        child.join(1)
        child.kill()
        child.join()


def _obituary(compiler: str, onnx_path: Path, code: int | None) -> str:
    """What to say of a compiler that ended without a word; -9 is what the kernel does when memory runs out."""
    if code == -signal.SIGKILL:
        return f"{compiler} was killed while it compiled {onnx_path.name}: probably out of memory, free some or use --layers"
    return f"{compiler} crashed on {onnx_path.name} (exit code {code})"


def die_with_the_parent() -> None:
    """Have the kernel end this process when its parent is killed.

    Otherwise it would go on with gigabytes of memory, and write to a file that the next attempt writes too.
    """
    parent = multiprocessing.parent_process()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is None or not parent.is_alive():  # it was killed just before
        os._exit(1)


def _compile_in_child(onnx_path: Path, plan_path: Path, profiles: list[Profile], compiler: str, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, it ends this process
    die_with_the_parent()
    try:
        memory = _compile(onnx_path, plan_path, profiles, compiler, lambda amount: pipe.send(("advance", amount)))
        pipe.send(("peak", peak_memory()))
        pipe.send(("memory", [one.model_dump() for one in memory]))
    except ExportError as error:
        pipe.send(("error", str(error)))
    except OSError as error:
        pipe.send(("error", f"cannot write {plan_path}: {error.strerror}"))


def _compile(
    onnx_path: Path, plan_path: Path, profiles: Sequence[Profile], compiler: str, advance: Callable[[float], None]
) -> list[Memory]:
    try:
        trt = importlib.import_module(compiler)
    except ImportError:
        package = compiler.replace("_", "-")
        raise ExportError(
            f"the compiler {compiler} is not installed: pip install {package}, or choose another --compiler"
        ) from None
    messages: list[tuple[Any, str]] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network, parser = _parse(trt, builder, logger, onnx_path)
    advance(1)
    failed = _Failed()
    with plan_path.open("wb") as file:
        done = builder.build_serialized_network_to_stream(
            network, _configure(trt, builder, profiles), _writer(trt, file, failed)
        )
    del parser
    if failed.error:
        raise failed.error
    if not done:
        errors = [text for severity, text in messages if severity <= trt.ILogger.ERROR and not _NO_GPU.search(text)]
        raise ExportError(f"{compiler} could not compile {onnx_path.name}: {errors[0] if errors else 'it gives no reason'}")
    advance(1)
    return reported_memory([text for _, text in messages], len(profiles), f"{compiler} {trt.__version__}")


def reported_memory(messages: Sequence[str], profiles: int, compiler: str) -> list[Memory]:
    """The memory figures (bytes) in the compiler's printout, for each of the engine's `profiles`.

    Raises:
        ExportError: it printed none, or not one for each profile.
    """
    weights = [int(found[1]) for text in messages if (found := _WEIGHTS.search(text))]
    activation = [int(found[1]) for text in messages if (found := _ACTIVATION.search(text))]
    if not weights or len(activation) < profiles:
        raise ExportError(f"{compiler} printed no memory figures, and serving plans with them")
    total = weights[-1]
    return [
        Memory(weights_bytes=total, activation_bytes=most, peak_bytes=total + most, source=f"printed by {compiler}")
        for most in activation[-profiles:]
    ]
