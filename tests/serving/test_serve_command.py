"""`videosdgx serve` on machines where something is in its way: one line that says what to do."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import VIDEOSDGX, free_ports
from videosdgx.serving import triton
from videosdgx.serving.cli import leave_out_missing
from videosdgx.serving.settings import FamilySettings, Settings


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VIDEOSDGX, "serve", *arguments], capture_output=True, text=True, timeout=60)


def one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("videosdgx serve: "), result.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_an_occupied_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = str(occupied.getsockname()[1])
        one_line(serve("--home", str(tmp_path), "--http-port", port), port, "--http-port")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "wan21=fp3"], ["fp3", "nvfp4"]),
        (["--precision", "wan22=fp8"], ["wan22", "wan21"]),
        (["--variant", "wan21=t2v-2b"], ["t2v-2b", "t2v-1.3b"]),
        (["--family", "sora"], ["sora", "wan21"]),
        (["--target", "sm90"], ["sm90", "sm121"]),
        (["--http-port", "8123", "--grpc-port", "8123"], ["differ", "8123"]),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    one_line(serve("--home", str(tmp_path), *arguments), *words)


def test_a_missing_artifact_of_a_real_variant_says_how_to_make_it(tmp_path: Path) -> None:
    ports = [str(port) for port in free_ports(3)]
    arguments = ["--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2], "--target", "cpu"]
    result = serve("--home", str(tmp_path), "--variant", "wan21=t2v-1.3b", *arguments)
    one_line(result, "videosdgx export wan21 --variant t2v-1.3b --precision fp8 --target cpu")


def test_a_python_without_a_stub_is_told_which_ones_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if triton.CONTAINER.exists():
        pytest.skip("this is NVIDIA's container, which brings its own stub")
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0), raising=True)
    with pytest.raises((triton.ServerProblem, AttributeError)) as caught:
        triton.find_triton(tmp_path)
    assert caught.type is AttributeError or "3.99" in str(caught.value)


def test_too_little_shared_memory_is_told_with_both_numbers() -> None:
    with pytest.raises(triton.ServerProblem, match=r"/dev/shm has \d+ MB free, at least \d+ MB"):
        triton.check_shared_memory(least=1 << 60)


def test_a_family_without_artifacts_is_left_out_unless_somebody_asked_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = FamilySettings(variant="t2v-1.3b", precision="fp8")
    settings = Settings(home=tmp_path, target="cpu", families={"wan21": real}, http_port=0, grpc_port=0, metrics_port=0)
    with pytest.raises(triton.ServerProblem, match=r"Make it with: videosdgx export wan21 --variant t2v-1\.3b"):
        leave_out_missing(settings, {"wan21"})
    with pytest.raises(triton.ServerProblem, match="no family to serve"):
        leave_out_missing(settings, set())
    assert "going on without wan21: no artifact at" in capsys.readouterr().err
