"""Running the command line as a person does."""

import subprocess
import sys
from pathlib import Path

VIDEOSDGX = str(Path(sys.executable).parent / "videosdgx")


def videosdgx(*arguments: str, cwd: Path | None = None, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [VIDEOSDGX, *arguments], cwd=cwd, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def assert_one_line_error(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
