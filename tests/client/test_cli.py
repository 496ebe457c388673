"""The command line: what it prints, and the exit codes that scripts rely on."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.client.commands import assert_one_line_error, videosdgx
from tests.conftest import Server

PROMPT = "a red circle moving right on a teal background"
NOWHERE = ("--url", "localhost:1")


@pytest.mark.parametrize("command", ["generate", "models", "load", "unload", "status", "health", "bench"])
def test_help_teaches_with_examples(command: str) -> None:
    done = videosdgx(command, "--help")
    assert done.returncode == 0 and f"videosdgx {command}" in done.stdout and "Example" in done.stdout


@pytest.mark.parametrize(
    "arguments", [("generate", "wan21", PROMPT), ("models",), ("load", "x"), ("unload", "x"), ("status",), ("health",)]
)
def test_without_a_server_one_line_says_how_to_start_one(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert_one_line_error(videosdgx(*arguments, *NOWHERE, cwd=tmp_path), "localhost:1", "videosdgx serve")


@pytest.mark.parametrize(
    ("output", "words"),
    [("missing/x.mp4", "missing does not exist"), ("x.avi", "must end in .mp4 or .png"), ("folder.mp4", "is a folder")],
)
def test_a_bad_output_is_refused_before_the_server_is_asked(output: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    assert_one_line_error(videosdgx("generate", "wan21", PROMPT, "-o", output, *NOWHERE, cwd=tmp_path), words)


def test_an_image_that_is_missing_is_named(tmp_path: Path) -> None:
    done = videosdgx("generate", "wan21", PROMPT, "--image", "absent.png", *NOWHERE, cwd=tmp_path)
    assert_one_line_error(done, "absent.png")


@pytest.mark.server
def test_generate_writes_the_file_and_says_what_it_made(tiny_server: Server, tmp_path: Path) -> None:
    arguments = ("generate", "wan21", PROMPT, "--seed", "7", "--steps", "10", "--url", tiny_server.http_url)
    done = videosdgx(*arguments, "-o", "x.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.mp4").read_bytes()[4:8] == b"ftyp"
    lines = done.stdout.splitlines()
    assert any("sampling step 10 of 10" in line for line in lines) and len(lines) < 20
    assert any(line.startswith("x.mp4") and "seed 7" in line for line in lines)
    videosdgx(*arguments, cwd=tmp_path)
    assert (tmp_path / "wan21-7.mp4").read_bytes() == (tmp_path / "x.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wan21-7.mp4", "x.mp4"]


@pytest.mark.server
def test_a_png_is_one_frame(tiny_server: Server, tmp_path: Path) -> None:
    done = videosdgx(
        "generate", "wan21", PROMPT, "--steps", "2", "-o", "still.png", "--url", tiny_server.http_url, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "still.png").size == (64, 64)


@pytest.mark.server
def test_a_refusal_of_the_server_is_one_line_and_leaves_no_file(tiny_server: Server, tmp_path: Path) -> None:
    done = videosdgx("generate", "wan21", PROMPT, "--width", "7", "-o", "x.mp4", "--url", tiny_server.http_url, cwd=tmp_path)
    assert_one_line_error(done, "width is 7", "multiple of 16")
    assert not list(tmp_path.iterdir())


@pytest.mark.server
def test_control_commands(tiny_server: Server) -> None:
    url = ("--url", tiny_server.http_url)
    assert videosdgx("health", *url).returncode == 0
    assert videosdgx("load", "wan21_transformer", *url).returncode == 0
    models = {model["name"]: model["state"] for model in json.loads(videosdgx("models", "--json", *url).stdout)}
    assert models["wan21_transformer"] == "READY"
    assert "wan21_transformer" in videosdgx("models", *url).stdout
    status = json.loads(videosdgx("status", "--json", *url).stdout)
    assert status["components"]["wan21_transformer"]["state"] == "ready"
    assert "wan21_transformer" in videosdgx("status", *url).stdout
    assert videosdgx("unload", "wan21_transformer", *url).returncode == 0
    assert_one_line_error(videosdgx("load", "wan21_unet", *url), "wan21_unet")
