"""A clip of any length is made in the memory of a short one."""

import subprocess
import sys
from pathlib import Path

# Peaks of the same run differ by 10 MB. The pixels of 15 more chunks would be 40 MB, as the autoencoder gives them 160 MB.
TOLERANCE_KB = 25_000


def peak_kb(chunks: int) -> int:
    command = [sys.executable, "-m", "tests.families.magi1.memory", str(chunks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd=Path(__file__).parents[3])
    return int(done.stdout.split()[-1])


def test_memory_does_not_grow_with_the_length() -> None:
    assert peak_kb(20) < peak_kb(5) + TOLERANCE_KB
