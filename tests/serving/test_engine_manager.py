"""The engine manager without Triton: who waits, what is loaded and how often, and that nobody waits for its lock."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from videosdgx import memory
from videosdgx.serving.engine_manager import SLOTS, EngineManager
from videosdgx.serving.names import component_models
from videosdgx.serving.settings import FamilySettings, Settings

MODELS = component_models("wan21")


class Triton:
    """Loads models by writing their records, as their processes do; `asked` is called before readiness is answered."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.loads: list[str] = []
        self.ready: set[str] = set()
        self.failing: dict[str, str] = {}
        self.seconds = 0.0
        self.asked: Callable[[str], None] = lambda name: None

    def load(self, name: str) -> None:
        self.loads.append(name)
        time.sleep(self.seconds)
        if name in self.failing:
            raise RuntimeError(self.failing[name])
        record = self.settings.component_record(name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"pid": os.getpid()}))
        self.ready.add(name)

    def unload(self, name: str) -> None:
        self.ready.discard(name)

    def is_ready(self, name: str) -> bool:
        ready = name in self.ready
        self.asked(name)
        return ready


@pytest.fixture
def triton(tmp_path: Path) -> Triton:
    chosen = FamilySettings(variant="demo", precision="fp8")
    return Triton(Settings(home=tmp_path, target="cpu", families={"wan21": chosen}, http_port=1, grpc_port=2, metrics_port=3))


@pytest.fixture
def manager(triton: Triton) -> EngineManager:
    return EngineManager(triton.settings, triton.load, triton.unload, triton.is_ready)


def acquire(manager: EngineManager, name: str = "a", pid: int | None = None) -> dict[str, Any]:
    return manager.handle({"action": "acquire", "id": name, "family": "wan21", "pid": pid or os.getpid()})


def until_ready(manager: EngineManager, name: str = "a") -> None:
    deadline = time.monotonic() + 10
    while acquire(manager, name)["state"] != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_missing_is_loaded_once_and_then_the_slot_is_held(manager: EngineManager, triton: Triton) -> None:
    assert acquire(manager) == {"state": "loading", "missing": MODELS}
    until_ready(manager)
    assert sorted(triton.loads) == sorted(MODELS)
    for number in range(SLOTS - 1):
        assert acquire(manager, f"b{number}")["state"] == "ready"
    assert acquire(manager, "late") == {"state": "queued", "ahead": 1}
    manager.handle({"action": "release", "id": "a"})
    assert acquire(manager, "late")["state"] == "ready" and len(triton.loads) == len(MODELS)


def test_many_at_once_load_a_component_once(manager: EngineManager, triton: Triton) -> None:
    triton.seconds = 0.05
    # All have asked Triton, and found nothing, before any of them goes on.
    together = threading.Barrier(SLOTS)
    waiting = threading.local()

    def meet(name: str) -> None:
        if threading.current_thread().name.startswith("caller") and not getattr(waiting, name, False):
            setattr(waiting, name, True)
            together.wait(5)

    triton.asked = meet
    callers = [threading.Thread(target=until_ready, args=(manager, str(n)), name=f"caller{n}") for n in range(SLOTS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert sorted(triton.loads) == sorted(MODELS)


def test_what_another_caller_has_loaded_meanwhile_is_not_loaded_again(manager: EngineManager, triton: Triton) -> None:
    def meanwhile(name: str) -> None:
        triton.asked = lambda name: None
        until_ready(manager, "b")

    triton.asked = meanwhile
    assert acquire(manager)["state"] == "loading"  # so it was when Triton was asked
    until_ready(manager)
    assert sorted(triton.loads) == sorted(MODELS)


def test_nobody_waits_while_triton_is_asked(manager: EngineManager, triton: Triton) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        asked.set()
        assert answer.wait(10)

    triton.asked = slow
    caller = threading.Thread(target=acquire, args=(manager,))
    caller.start()
    assert asked.wait(5)
    other = threading.Thread(target=manager.handle, args=({"action": "release", "id": "another"},))
    other.start()
    other.join(2)
    answered = not other.is_alive()
    answer.set()
    caller.join(10)
    assert answered


def test_a_failed_load_is_told_once_and_then_tried_again(manager: EngineManager, triton: Triton) -> None:
    triton.failing = {"wan21_vae": "no such file"}
    with pytest.raises(ValueError, match="wan21_vae could not be loaded: no such file"):
        until_ready(manager)
    status = manager.handle({"action": "status"})
    assert status["leases"] == [] and status["components"]["wan21_vae"]["error"] == "no such file"
    assert status["components"]["wan21_vae"]["state"] == "failed"
    triton.failing = {}
    until_ready(manager)
    assert triton.loads.count("wan21_vae") == 2
    assert manager.handle({"action": "status"})["components"]["wan21_vae"]["error"] is None


def test_a_component_whose_process_was_killed_is_loaded_anew(manager: EngineManager, triton: Triton) -> None:
    until_ready(manager)
    triton.settings.component_record("wan21_vae").write_text(json.dumps({"pid": 2**22 + 1}))
    assert acquire(manager) == {"state": "loading", "missing": ["wan21_vae"]}
    until_ready(manager)
    assert triton.loads.count("wan21_vae") == 2


def test_a_lease_whose_process_is_gone_is_dropped(manager: EngineManager, triton: Triton) -> None:
    for number in range(SLOTS):
        acquire(manager, f"gone{number}", pid=2**22 + 1)
    assert acquire(manager)["state"] != "queued"
    assert [lease["id"] for lease in manager.handle({"action": "status"})["leases"]] == ["a"]


def test_ports_are_told_without_looking_at_any_process(
    manager: EngineManager, triton: Triton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise AssertionError("this takes time")

    for name in ("held_by", "available", "total"):
        monkeypatch.setattr(memory, name, refuse)
    triton.asked = refuse
    told = manager.handle({"action": "ports"})
    assert told == {"families": ["wan21"], "http_port": 1, "grpc_port": 2, "metrics_port": 3}


def test_what_cannot_be_understood_is_answered_with_what_can(manager: EngineManager) -> None:
    with pytest.raises(ValueError, match="it must be one of acquire, release, ports, status"):
        manager.handle({"action": "sing"})
    with pytest.raises(ValueError, match="family is 'sora', this server serves wan21"):
        manager.handle({"action": "acquire", "id": "a", "family": "sora", "pid": 1})
