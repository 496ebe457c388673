"""`videosdgx generate magi1 --play-while-generating` against a real server."""

import signal
import time
from pathlib import Path

import av
import pytest

from client import VideoClient
from client.errors import InvalidValue
from tests.client.commands import assert_one_line_error, start, videosdgx
from tests.conftest import Server

pytestmark = pytest.mark.server

PROMPT = "a red circle moving right then up on a teal background"


def frames_in(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def command(tiny_server: Server, *more: str) -> list[str]:
    return ["generate", "magi1", PROMPT, "--seed", "7", "-o", "x.mp4", "--url", tiny_server.http_url, *more]


def test_the_file_grows_and_is_whole_at_the_end(tiny_server: Server, tmp_path: Path) -> None:
    options = ["--frames", "96", "--steps", "4"]
    done = videosdgx(*command(tiny_server, *options, "--play-while-generating"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [f"chunk {number} of 4 is finished" in done.stdout for number in (1, 2, 3, 4)] == [True] * 4
    assert any(line.startswith("x.mp4") and "96 frames" in line and "seed 7" in line for line in lines)
    assert frames_in(tmp_path / "x.mp4") == 96 and [path.name for path in tmp_path.iterdir()] == ["x.mp4"]
    grown = (tmp_path / "x.mp4").read_bytes()
    videosdgx(*command(tiny_server, *options), cwd=tmp_path)
    assert frames_in(tmp_path / "x.mp4") == 96 and (tmp_path / "x.mp4").read_bytes() != grown


def test_ctrl_c_leaves_what_is_finished_and_says_so(tiny_server: Server, tmp_path: Path) -> None:
    arguments = command(tiny_server, "--frames", "480", "--steps", "16", "--play-while-generating")
    process = start(*arguments, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "chunk 2 of 20" in line:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    stopped = time.monotonic()
    assert process.returncode == 130 and errors == "videosdgx generate: stopped\n"
    chunks = frames_in(tmp_path / "x.mp4") // 24
    assert 2 <= chunks < 20 and f"x.mp4 holds the first {chunks} of 20 chunks and can be played" in output
    client = VideoClient(tiny_server.http_url)
    while client.status()["leases"]:
        assert time.monotonic() - stopped < 1.5, "the generation still runs on the server"


def test_a_prefix_that_is_missing_or_no_video_is_named(tiny_server: Server, tmp_path: Path) -> None:
    assert_one_line_error(videosdgx(*command(tiny_server, "--video", "absent.mp4"), cwd=tmp_path), "absent.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    assert_one_line_error(videosdgx(*command(tiny_server, "--video", "text.mp4"), cwd=tmp_path), "video is no video")


def test_chunks_are_videos(tiny_server: Server) -> None:
    with pytest.raises(InvalidValue, match="response_format is 'b64_json', with on_chunk it must be mp4"):
        VideoClient(tiny_server.http_url).generate("magi1", PROMPT, response_format="b64_json", on_chunk=lambda chunk: None)
