"""The process that the compiler runs in."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from export.compile import compile_engine, reported_memory
from export.run.errors import ExportError
from videosdgx.artifacts import Profile


def _is_running(pid: int) -> bool:
    """Whether the process lives; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_ends_when_the_export_is_killed(tmp_path):
    """A compiler that went on would hold gigabytes and write where the next attempt writes."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from export.compile import die_with_the_parent\n"
        "def work(pipe):\n"
        "    die_with_the_parent()\n"
        "    pipe.send(os.getpid())\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    ours, theirs = multiprocessing.Pipe()\n"
        "    multiprocessing.get_context('spawn').Process(target=work, args=(theirs,), daemon=True).start()\n"
        "    print(ours.recv(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    end = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < end, "the child outlived its parent"
        time.sleep(0.05)


def test_memory_is_read_from_the_printout_for_each_profile():
    lines = [f"Total Activation Memory: {size} bytes" for size in (5, 7, 9)] + ["Total Weights Memory: 100 bytes"]
    one, other = reported_memory(lines, 2, "compiler 1")
    assert (one.activation_bytes, other.activation_bytes, one.weights_bytes, other.peak_bytes) == (7, 9, 100, 109)
    with pytest.raises(ExportError, match="printed no memory figures"):
        reported_memory(lines, 4, "compiler 1")


def test_a_disk_that_fills_up_under_the_compiler_is_named(tmp_path):
    """The plan goes to the disk in pieces, from inside the compiler."""
    pytest.importorskip("tensorrt_rtx")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11), tmp_path / "relu.onnx")
    profile = Profile(name="any", min={"x": [1, 4]}, opt={"x": [2, 4]}, max={"x": [8, 4]})
    with pytest.raises(ExportError, match="cannot write /dev/full: No space left on device"):
        compile_engine(tmp_path / "relu.onnx", Path("/dev/full"), [profile], "tensorrt_rtx", lambda _: None)
