"""The engine manager: the only one that loads components on behalf of requests (docs/design.md, rule 2).

Its policy here is the simplest: a generation gets one of a few slots, in the order of arrival; what it needs is loaded
if it is not. Commands come as JSON; none waits for a load, so that each is answered in milliseconds:

    {"action": "acquire", "id": ..., "family": ..., "pid": ...}  -> state queued | loading | ready; asked again until ready
    {"action": "release", "id": ...}                             -> the slot is free
    {"action": "ports"}                                          -> where the server listens, and which families it serves
    {"action": "status"}                                         -> everything that `videosdgx status` shows
"""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videosdgx import __version__, memory
from videosdgx.families import FAMILIES
from videosdgx.serving.names import component_models
from videosdgx.serving.settings import Settings

# Two generations at a time keep the processor busy while one decodes; more would only make each slower.
SLOTS = 2


@dataclass
class Lease:
    """A generation that holds a slot, or waits for one."""

    id: str
    family: str
    pid: int
    since: float = field(default_factory=time.monotonic)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class EngineManager:
    """Slots, leases and the loading of components. `load`, `unload` and `is_ready` are Triton's calls.

    Commands may come from several threads. The lock guards the fields and nothing else: it is not held while Triton is asked
    or a file is read.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[str], None],
        unload: Callable[[str], None],
        is_ready: Callable[[str], bool],
    ):
        self.settings = settings
        self._load, self._unload, self._is_ready = load, unload, is_ready
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}  # in the order of arrival: the first SLOTS of them hold the slots
        self._loading: dict[str, Future[None]] = {}
        self._errors: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="load")

    def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        """Answer one command.

        Raises:
            ValueError: the command cannot be understood, or a component cannot be loaded (with the reason).
        """
        action = command.get("action")
        if action == "status":
            return self.status()
        if action == "ports":
            return self.ports()
        if action == "acquire":
            return self.acquire(str(command["id"]), str(command["family"]), int(command["pid"]))
        if action == "release":
            self._drop(str(command["id"]))
            return {"state": "released"}
        raise ValueError(f"action is {action!r}, it must be one of acquire, release, ports, status")

    def acquire(self, lease_id: str, family: str, pid: int) -> dict[str, Any]:
        """Ask for a slot and the family's components; to be repeated until `state` is `ready`.

        Raises:
            ValueError: a component could not be loaded; the lease is gone then.
        """
        if family not in self.settings.families:
            raise ValueError(f"family is {family!r}, this server serves {', '.join(self.settings.families)}")
        self._drop_abandoned()
        with self._lock:
            self._leases.setdefault(lease_id, Lease(lease_id, family, pid))
            ahead = list(self._leases).index(lease_id) - SLOTS + 1
        if ahead > 0:
            return {"state": "queued", "ahead": ahead}
        try:
            missing = [name for name in component_models(family) if not self._ensure(name)]
        except ValueError:
            self._drop(lease_id)
            raise
        return {"state": "loading", "missing": missing} if missing else {"state": "ready"}

    def _drop(self, lease_id: str) -> None:
        with self._lock:
            self._leases.pop(lease_id, None)

    def _drop_abandoned(self) -> None:
        with self._lock:
            leases = list(self._leases.values())
        gone = [lease for lease in leases if not alive(lease.pid)]
        with self._lock:
            self._leases = {name: lease for name, lease in self._leases.items() if lease not in gone}

    def _ensure(self, name: str) -> bool:
        """True if a component is ready; otherwise see to it that it is being loaded.

        Raises:
            ValueError: its loading has failed. One caller is told; the next one has it tried again.
        """
        with self._lock:
            job = self._loading.get(name)
            if job is not None:
                if not job.done():
                    return False
                del self._loading[name]
                error = job.exception()
                if error is not None:
                    self._errors[name] = str(error)
                    raise ValueError(f"{name} could not be loaded: {error}")
        if self._healthy(name):
            with self._lock:
                self._errors.pop(name, None)
            return True
        with self._lock:
            # While Triton was asked, another caller may have begun to load it.
            if name not in self._loading:
                self._loading[name] = self._pool.submit(self._bring_up, name)
        return False

    def _healthy(self, name: str) -> bool:
        """Ready according to Triton, which does not notice a process that was killed between two requests."""
        record = self._record(name)
        return self._is_ready(name) and record is not None and alive(record["pid"])

    def _bring_up(self, name: str) -> None:
        if self._healthy(name):  # since it was found missing, another job has loaded it
            return
        if self._is_ready(name):  # but not healthy: what remains of a killed process has to go first
            self._unload(name)
            deadline = time.monotonic() + 30
            while self._is_ready(name) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._load(name)

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self.settings.component_record(name).read_bytes())
        except OSError:
            return None
        return record

    def _component_status(self, name: str) -> dict[str, Any]:
        record, ready = self._record(name), self._is_ready(name)
        with self._lock:
            job, error = self._loading.get(name), self._errors.get(name)
        if job is not None and not job.done():
            state = "loading"
        elif ready:
            state = "ready" if record and alive(record["pid"]) else "dead"
        else:
            state = "failed" if error else "unloaded"
        facts = record if record and state == "ready" else {}
        return {
            "state": state,
            "pid": facts.get("pid"),
            "memory_bytes": memory.held_by(facts["pid"]) or None if facts else None,
            "loaded_seconds": facts.get("loaded_seconds"),
            "artifact": facts.get("artifact"),
            # What a component keeps for generations; None if it is of the kind that keeps nothing.
            "generations": facts.get("generations"),
            "state_bytes": facts.get("state_bytes"),
            "error": error,
        }

    def ports(self) -> dict[str, Any]:
        """What a client has to know before its first request; reads nothing but the settings."""
        return {
            "families": list(self.settings.families),
            "http_port": self.settings.http_port,
            "grpc_port": self.settings.grpc_port,
            "metrics_port": self.settings.metrics_port,
        }

    def status(self) -> dict[str, Any]:
        """Everything that a person may want to know, as plain data."""
        self._drop_abandoned()
        with self._lock:
            leases = list(self._leases.values())
        now = time.monotonic()
        families = {
            name: {**chosen.model_dump(), "precisions": list(FAMILIES[name].precisions)}
            for name, chosen in self.settings.families.items()
        }
        return {
            "version": __version__,
            "pid": os.getpid(),
            "home": str(self.settings.home),
            "target": self.settings.target,
            "http_port": self.settings.http_port,
            "grpc_port": self.settings.grpc_port,
            "metrics_port": self.settings.metrics_port,
            "families": families,
            "components": {
                name: self._component_status(name) for family in self.settings.families for name in component_models(family)
            },
            "leases": [{"id": x.id, "family": x.family, "age": round(now - x.since, 1)} for x in leases[:SLOTS]],
            "waiting": max(0, len(leases) - SLOTS),
            "slots": SLOTS,
            "memory": {"total_bytes": memory.total(), "available_bytes": memory.available()},
        }
