"""Tables fit a terminal of the usual width."""

import io

from rich.console import Console

from client.tables import status_tables


def test_names_of_components_are_whole_on_a_narrow_terminal() -> None:
    names = [f"{family}_{part}" for family in ("wan21", "magi1") for part in ("text_encoder", "transformer", "vae")]
    components = {
        name: {
            "state": "unloaded" if number else "ready", "memory_bytes": 480e6, "state_bytes": 10e6, "loaded_seconds": 32.0,
            "pid": 123_456, "error": "", "artifact": f"artifacts/{name}/demo/nvfp4-cpu",
        }
        for number, name in enumerate(names)
    }  # fmt: skip
    memory = {"available_bytes": 1, "total_bytes": 2}
    families = {"wan21": {"variant": "demo", "precision": "fp8"}}
    facts = {"version": "1", "target": "cpu", "home": "/x", "families": families, "components": components}
    text = io.StringIO()
    console = Console(file=text, width=80)
    console.print(*status_tables({**facts, "leases": [], "waiting": 0, "memory": memory}), sep="\n")
    assert all(name in text.getvalue() for name in names), text.getvalue()
