"""Running the command line as a person does."""

import signal
import subprocess
import sys
from pathlib import Path

VIDEOSDGX = str(Path(sys.executable).parent / "videosdgx")


def videosdgx(*arguments: str, cwd: Path | None = None, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [VIDEOSDGX, *arguments], cwd=cwd, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def start(*arguments: str, cwd: Path) -> "subprocess.Popen[str]":
    """A command that runs on, and that Ctrl-C reaches: a shell's background jobs ignore it, and so does what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [VIDEOSDGX, *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def assert_one_line_error(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
