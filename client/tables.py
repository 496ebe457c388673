"""Tables for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Column, Table

COLOURS = {"READY": "green", "ready": "green", "loading": "yellow", "dead": "red", "failed": "red"}


def megabytes(count: int | None) -> str:
    """Bytes as `123 MB` (10^6), or nothing if unknown."""
    return "" if count is None else f"{count / 1e6:,.0f} MB"


def _coloured(state: str) -> str:
    return f"[{COLOURS[state]}]{state}[/]" if state in COLOURS else state


def models_table(entries: Sequence[dict[str, str]]) -> Table:
    """Triton's index of models. A model that was never loaded has no state there: it is called unloaded here."""
    table = Table("model", "state", "reason")
    for entry in entries:
        state = entry["state"] if entry["state"] not in ("", "UNAVAILABLE") else "unloaded"
        table.add_row(entry["name"], _coloured(state), entry["reason"] if entry["reason"] != "unloaded" else "")
    return table


def status_tables(facts: dict[str, Any]) -> list[Table | str]:
    """The engine manager's status: a line on the server, its families, its components, its queue."""
    memory = facts["memory"]
    families = Table("family", "variant", "precision")
    for name, family in facts["families"].items():
        families.add_row(name, family["variant"], family["precision"])
    # On a narrow terminal the artifact takes more lines: a name that is cut off could not be typed.
    name, artifact = Column("component", no_wrap=True), Column("artifact", overflow="fold")
    components = Table(name, "state", "memory", "loaded in", "pid", artifact)
    for model, component in facts["components"].items():
        seconds, held = component["loaded_seconds"], component.get("state_bytes")
        components.add_row(
            model,
            _coloured(component["state"]),
            megabytes(component["memory_bytes"]) + (f", {megabytes(held)} of it for generations" if held else ""),
            "" if seconds is None else f"{seconds:.1f} s",
            str(component["pid"] or ""),
            component["error"] or (component["artifact"] or "").removeprefix("artifacts/"),
        )
    running = [f"{lease['family']} for {lease['age']:.0f} s" for lease in facts["leases"]]
    return [
        f"videosdgx {facts['version']}, target {facts['target']}, home {facts['home']}",
        families,
        components,
        f"running: {', '.join(running) or 'nothing'}; waiting: {facts['waiting']}",
        f"memory: {megabytes(memory['available_bytes'])} of {megabytes(memory['total_bytes'])} available",
    ]
