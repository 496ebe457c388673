"""Memory as the system sees it, from outside the processes that use it (Linux).

On the Spark the GPU shares the system's memory, and nothing else tells how much there is.
"""

from pathlib import Path


def held_by(pid: int | None) -> int:
    """Bytes that a process holds, with its share of shared pages (PSS); 0 if it is gone or cannot be seen."""
    try:
        return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    except OSError:
        return 0


def available() -> int:
    """Bytes that the system could give to programs."""
    return _field(Path("/proc/meminfo"), "MemAvailable:")


def total() -> int:
    """Bytes of the system's memory."""
    return _field(Path("/proc/meminfo"), "MemTotal:")


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
