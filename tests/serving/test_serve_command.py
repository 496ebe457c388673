"""`videosdgx serve` on machines where something is in its way: one line that says what to do."""

import socket
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from tests.client.commands import assert_one_line_error, videosdgx
from tests.conftest import free_ports
from videosdgx.artifacts import MANIFEST, artifact_dir
from videosdgx.serving.command import leave_out_missing
from videosdgx.serving.settings import FamilySettings, Settings
from videosdgx.serving.triton import launch


def refused(home: Path, *arguments: str) -> str:
    """The one line with which `videosdgx serve` ends."""
    done = videosdgx("serve", "--home", str(home), *arguments)
    assert_one_line_error(done)
    assert done.stderr.startswith("videosdgx serve: ") and done.stdout == ""
    return done.stderr


def test_an_occupied_port_is_named_with_its_option(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = str(occupied.getsockname()[1])
        line = refused(tmp_path, "--http-port", port)
    assert f"port {port} on 127.0.0.1 cannot be used" in line and "choose another with --http-port" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "wan21=fp3"], ["fp3", "nvfp4"]),
        (["--precision", "wan22=fp8"], ["wan22", "wan21"]),
        (["--variant", "wan21=t2v-2b"], ["t2v-2b", "t2v-1.3b"]),
        (["--variant", "wan21=i2v-14b-480p"], ["i2v-14b-480p", "cannot be used yet", "image encoder", "use a t2v variant"]),
        (["--family", "sora"], ["sora", "wan21"]),
        (["--target", "sm90"], ["sm90", "sm121"]),
        (["--http-port", "8123", "--grpc-port", "8123"], ["differ", "8123"]),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    line = refused(tmp_path, *arguments)
    assert all(word in line for word in words), line


def test_variants_that_cannot_be_used_are_not_offered(tmp_path: Path) -> None:
    assert "i2v" not in refused(tmp_path, "--variant", "wan21=t2v-2b")


def test_a_missing_artifact_of_a_real_variant_says_how_to_make_it(tmp_path: Path) -> None:
    ports = [str(port) for port in free_ports(3)]
    arguments = ["--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2], "--target", "cpu"]
    line = refused(tmp_path, "--variant", "wan21=t2v-1.3b", *arguments)
    assert "Make it with: videosdgx export wan21 --variant t2v-1.3b --precision fp8 --target cpu" in line


def test_a_python_without_a_stub_is_told_which_ones_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if launch.CONTAINER.exists():
        pytest.skip("this is NVIDIA's container, which brings its own stub")
    newer = namedtuple("newer", "major minor micro releaselevel serial")(3, 99, 0, "final", 0)
    monkeypatch.setattr(sys, "version_info", newer)
    with pytest.raises(launch.ServerProblem, match=r"no stub for Python 3\.99: use one of 3\.\d+"):
        launch.find_triton(tmp_path)


def test_threads_of_the_components_wait_without_spinning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path, target="cpu", families={}, http_port=0, grpc_port=0, metrics_port=0)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert launch.environment(settings)["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert launch.environment(settings)["OMP_WAIT_POLICY"] == "active"


def test_too_little_shared_memory_is_told_with_both_numbers() -> None:
    with pytest.raises(launch.ServerProblem, match=r"/dev/shm has \d+ MB free, at least \d+ MB"):
        launch.check_shared_memory(least=1 << 60)


def test_a_decoder_that_was_compiled_is_served_instead_of_pytorchs(tmp_path: Path) -> None:
    real = FamilySettings(variant="t2v-1.3b", precision="fp8")
    settings = Settings(home=tmp_path, target="sm121", families={"wan21": real}, http_port=0, grpc_port=0, metrics_port=0)
    assert settings.artifact("wan21", "vae").name == "fp32-sm121"
    for precision in ("fp32", "bf16", "fp16"):
        directory = artifact_dir(tmp_path, "wan21", "t2v-1.3b", "vae", precision, "sm121")
        directory.mkdir(parents=True)
        (directory / MANIFEST).write_text("{}")
        assert settings.artifact("wan21", "vae") == directory
    assert settings.artifact("wan21", "transformer").name == "fp8-sm121"
    assert settings.artifact("wan21", "pipeline").name == "config-sm121"
    with pytest.raises(ValueError, match="unknown component 'image_encoder' of wan21; there are: text_encoder, "):
        settings.artifact("wan21", "image_encoder")


def test_a_family_without_artifacts_is_left_out_unless_somebody_asked_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = FamilySettings(variant="t2v-1.3b", precision="fp8")
    settings = Settings(home=tmp_path, target="cpu", families={"wan21": real}, http_port=0, grpc_port=0, metrics_port=0)
    with pytest.raises(launch.ServerProblem, match=r"Make it with: videosdgx export wan21 --variant t2v-1\.3b"):
        leave_out_missing(settings, {"wan21"})
    with pytest.raises(launch.ServerProblem, match="no family to serve"):
        leave_out_missing(settings, set())
    assert "going on without wan21: no artifact at" in capsys.readouterr().err
