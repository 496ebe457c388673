"""The benchmark: arithmetic, verdicts, exit codes; and a real run."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from client import VideoClient, bench
from client.bench import Figure, figures_table, overhead_milliseconds
from client.results import Video
from tests.client.commands import VIDEOSDGX, assert_one_line_error, videosdgx
from tests.conftest import Server
from videosdgx.memory import available, held_by


def test_overhead_is_the_median_of_what_steps_take_beyond_the_transformer() -> None:
    first = Video(b"", {"step_seconds": [0.050, 0.040], "transformer_seconds": [0.030, 0.035]})
    second = Video(b"", {"step_seconds": [0.041], "transformer_seconds": [0.034]})
    assert overhead_milliseconds([first, second]) == pytest.approx(7.0)


def test_a_figure_passes_up_to_its_limit() -> None:
    assert Figure("a", 2.0, "s", 2.0).passed and Figure("a", 99.0, "s").passed
    assert not Figure("a", 2.1, "s", 2.0).passed
    assert figures_table([Figure("a", 2.1, "s", 2.0)]).row_count == 1


@pytest.mark.parametrize(("family", "limit"), [("magi1", 8.0), ("later", None)])
def test_a_family_without_a_promise_is_measured_all_the_same(
    family: str, limit: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        url = "nowhere"

        def generate(self, *_: object, **__: object) -> Video:
            return Video(b"", {"step_seconds": [0.05], "transformer_seconds": [0.04]})

        def unload(self, name: str) -> None: ...

    monkeypatch.setattr(bench, "components_of", lambda client, family: {f"{family}_vae": {"pid": os.getpid()}})
    monkeypatch.setattr(bench, "measure_unloads", lambda client, family: [])
    figures = {figure.name: figure for figure in bench.measure(Client(), family, 1, lambda text: None)}  # type: ignore[arg-type]
    warm = figures["warm clip, median of 1"]
    assert warm.limit == limit and warm.passed and figures_table(list(figures.values())).row_count == 3


def test_memory_of_this_process_and_of_none() -> None:
    assert 1e6 < held_by(os.getpid()) < available() * 10
    assert held_by(None) == 0 and held_by(2**22 + 1) == 0


def test_without_a_server_at_the_url_one_line_says_so() -> None:
    done = videosdgx("bench", "--url", "localhost:1")
    assert done.returncode == 1 and "no server at localhost:1" in done.stderr


def test_a_server_that_does_not_start_is_reported_with_its_own_words() -> None:
    done = videosdgx("bench", "--precision", "int2")
    assert done.returncode == 1 and "wan21 has the precisions" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.server
@pytest.mark.slow
def test_a_real_run_measures_everything(server: Server) -> None:
    done = videosdgx("bench", "--url", server.http_url, "--clips", "1", "--json", seconds=180)
    assert done.returncode == 0, done.stderr
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)}
    for name in ("first clip, components cold", "warm clip, median of 1", "overhead per sampling step, median"):
        assert figures[name]["value"] > 0 and figures[name]["limit"] is not None
    for component in ("text_encoder", "transformer", "vae"):
        assert figures[f"wan21_{component}: memory of its process before"]["value"] > 10
        assert figures[f"wan21_{component}: memory back after unload"]["limit"] == 2.0


@pytest.mark.server
def test_an_unknown_family_is_refused(server: Server) -> None:
    assert_one_line_error(videosdgx("bench", "sora", "--url", server.http_url), "no family 'sora'", "wan21")


@pytest.mark.server
def test_a_benchmark_that_is_told_to_end_takes_its_server_with_it(copied_home: Path, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    command = [VIDEOSDGX, "bench", "--home", str(copied_home), "--log", str(log)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not log.exists() or "ready after" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    url = re.search(r"HTTP http://(\S+),", log.read_text())
    assert url is not None and VideoClient(url[1]).ready()
    process.terminate()
    assert process.wait(40) == 130
    assert not VideoClient(url[1]).ready()
