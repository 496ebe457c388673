"""One generation without a server: what is sent and when, and that its end is an end whatever fails then."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.serving import fake_triton  # noqa: F401  (before all that imports Triton's own)
from videosdgx.artifacts import MANIFEST
from videosdgx.families import FAMILIES
from videosdgx.families.networks import Piece
from videosdgx.families.request import parse_request
from videosdgx.serving.clock import Clock
from videosdgx.serving.errors import Cancelled
from videosdgx.serving.generation import Generation
from videosdgx.serving.names import RELEASE
from videosdgx.serving.settings import FamilySettings, Settings
from videosdgx.serving.triton import calls

FRAMES = np.zeros((4, 32, 32, 3), np.uint8)


class Served:
    """A generation with a family's pipeline and Triton played by the test; `log` has what happened, in its order."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, family: str, make: Callable[..., Iterator[Piece]]):
        self.log: list[Any] = []
        self.failing: dict[str, Exception] = {}
        self.cancelled = False
        self.sent: list[bytes] = []
        self.spec = FAMILIES[family]
        chosen = FamilySettings(variant="demo", precision=self.spec.default_precision)
        self.settings = Settings(home=home, target="cpu", families={family: chosen}, http_port=0, grpc_port=0, metrics_port=0)
        for component in self.spec.components:
            directory = self.settings.artifact(family, component)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / MANIFEST).write_text("{}")
        self.make = make
        monkeypatch.setattr(calls, "manager", self.manager)
        monkeypatch.setattr(calls, "call", self.call)

    def manager(self, command: dict[str, Any]) -> dict[str, Any]:
        self.log.append(f"manager {command['action']}")
        if command["action"] in self.failing:
            raise self.failing[command["action"]]
        return {"state": "ready"}

    def call(self, model: str, inputs: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        self.log.append((model, {name: array[0] for name, array in inputs.items()}, outputs))
        if model in self.failing:
            raise self.failing[model]
        return {}

    def emit(self, event: dict[str, Any], video: bytes | None = None) -> None:
        self.log.append(event["phase"])
        if video is not None:
            self.sent.append(video)

    def run(self, whole: bool = False, **values: Any) -> tuple[bytes | None, dict[str, Any]]:
        request = parse_request({"prompt": "x", "seed": 3} | values, self.spec, self.spec.variant("demo"))
        clock = Clock("g", request.num_inference_steps, self.emit, lambda: self.cancelled)
        return Generation(self.settings, self.spec.name, lambda: (self.make, None), request, clock, whole).run()  # type: ignore[arg-type]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Served]:
    return lambda family, make: Served(tmp_path, monkeypatch, family, make)


def at_once(directory: Path, variant: Any, request: Any, networks: Any, progress: Any, prompts: Any) -> Iterator[Piece]:
    progress.phase("sampling")
    progress.step(1)
    yield Piece(FRAMES)


def in_chunks(directory: Path, variant: Any, request: Any, networks: Any, progress: Any, prompts: Any) -> Iterator[Piece]:
    progress.plan(5, 2)
    progress.phase("sampling")
    yield Piece(FRAMES)
    progress.phase("sampling")
    yield Piece(FRAMES[:2])


def count(video: bytes) -> int:
    with av.open(io.BytesIO(video)) as container:
        return sum(1 for _ in container.decode(video=0))


STATEFUL = ("magi1_transformer", {RELEASE: b"g"}, ["seconds"])


def test_a_clip_made_as_a_whole_gives_its_slot_back_before_it_is_encoded(served: Callable[..., Served]) -> None:
    one = served("wan21", at_once)
    video, metadata = one.run()
    assert video is not None and count(video) == 4 and not one.sent
    assert one.log == ["manager acquire", "sampling", "sampling", "manager release", "muxing", "done"]
    assert metadata["num_frames"] == 4 and metadata["guidance_scale"] == 3.0 and metadata["seed"] == 3
    assert not {"chunks", "chunk_seconds", "window_size", "duration"} & metadata.keys()


def test_chunks_are_sent_as_they_come_and_then_everything_is_released(served: Callable[..., Served]) -> None:
    one = served("magi1", in_chunks)
    video, metadata = one.run(window_size=2)
    assert video is None and count(b"".join(one.sent)) == 6
    assert one.log == [
        "manager acquire", "sampling", "muxing", "chunk", "sampling", "muxing", "chunk", STATEFUL, "manager release", "done",
    ]  # fmt: skip
    assert metadata["num_frames"] == 6 and metadata["chunks"] == 2 == len(metadata["chunk_seconds"])
    assert metadata["window_size"] == 2 and "guidance_scale" not in metadata
    whole, _ = served("magi1", in_chunks).run(whole=True)
    assert whole is not None and count(whole) == 6


def test_that_there_are_chunks_is_known_from_the_family_alone(served: Callable[..., Served]) -> None:
    video, metadata = served("magi1", at_once).run()
    assert video is not None and count(video) == 4 and metadata["window_size"] == 4 and "chunks" not in metadata
    one = served("wan21", in_chunks)
    assert one.run()[0] is None and len(one.sent) == 2


def test_a_picture_of_a_clip_in_chunks_comes_at_the_end(served: Callable[..., Served]) -> None:
    one = served("magi1", in_chunks)
    picture, _ = one.run(num_frames=1, response_format="png")
    assert picture is not None and picture.startswith(b"\x89PNG") and not one.sent and "muxing" not in one.log


@pytest.mark.parametrize("error", [calls.CallFailed("out of memory"), RuntimeError("broken"), ValueError("x")])
def test_a_release_that_fails_loses_no_clip(
    served: Callable[..., Served], error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    one = served("magi1", in_chunks)
    one.failing = {"magi1_transformer": error, "release": error}
    _, metadata = one.run()
    assert metadata["num_frames"] == 6 and one.log[-1] == "done"
    logged = capsys.readouterr().out.splitlines()
    assert logged == [
        f"magi1: generation g is over, but transformer keeps what it has of it: {error}",
        f"magi1: generation g is over, but its slot stays taken: {error}",
    ]


def test_a_release_that_fails_hides_no_error(served: Callable[..., Served]) -> None:
    def fails(*_: Any) -> Iterator[Piece]:
        raise MemoryError("the real one")
        yield

    one = served("magi1", fails)
    one.failing = {"magi1_transformer": RuntimeError("another"), "release": RuntimeError("another")}
    with pytest.raises(MemoryError, match="the real one"):
        one.run()
    assert one.log == ["manager acquire", STATEFUL, "manager release"]


@pytest.mark.parametrize("gone", [calls.NotLoaded("not ready"), calls.Died("unhealthy")])
def test_a_component_that_is_gone_keeps_nothing_and_that_is_no_fault(
    served: Callable[..., Served], gone: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    one = served("magi1", in_chunks)
    one.failing = {"magi1_transformer": gone}
    one.run()
    assert one.log[-2:] == ["manager release", "done"] and capsys.readouterr().out == ""


def test_cancelling_closes_the_pipeline_and_then_releases(served: Callable[..., Served]) -> None:
    def endless(directory: Path, variant: Any, request: Any, networks: Any, progress: Any, prompts: Any) -> Iterator[Piece]:
        progress.plan(5, 100)
        try:
            while True:
                yield Piece(FRAMES)
                one.cancelled = True
        finally:
            one.log.append("closed")

    one = served("magi1", endless)
    with pytest.raises(Cancelled):
        one.run()
    assert one.log[-3:] == ["closed", STATEFUL, "manager release"]


def test_sound_is_refused_and_not_lost(served: Callable[..., Served]) -> None:
    def loud(*_: Any) -> Iterator[Piece]:
        yield Piece(FRAMES, np.zeros((2, 16_000), np.float32))

    with pytest.raises(NotImplementedError, match="sound, which is not written into files yet"):
        served("wan21", loud).run()
