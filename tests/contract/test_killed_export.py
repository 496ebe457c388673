"""An export that is killed, wherever, goes on where it was: what it makes is the same to the last byte.

A published variant's way is taken, in which layers are read as they run and single blocks are compared, on a tiny checkpoint
and without a compiler. A compiler that is killed: `tests/export/families/wan21/test_full_size.py`.
"""

import multiprocessing
import time
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from export.run.job import Settings
from tests.contract.tiny_home import write_checkpoint
from tests.export import exports
from videosdgx.artifacts import verify
from videosdgx.families import FAMILIES

SECONDS = 300  # of one run, on busy cores


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Where a process begins with all that an export imports, for which it would need several seconds otherwise."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__, *(f"export.families.{family}.recipe" for family in FAMILIES)])
    return made


def half_made(home: Path) -> set[str]:
    """What an export has begun and not finished: the names of stages and artifacts."""
    names = {path.relative_to(home) for path in home.rglob("*.partial") if path.is_dir()}
    # A stage's name ends with a digest.
    return {name.name.rpartition("-")[0] if name.parts[0] == "work" else str(name) for name in names}


def stages(home: Path) -> set[str]:
    return {path.name.rpartition("-")[0] for path in (home / "work").glob("export/*/*/*-*") if path.is_dir()}


def finished(home: Path) -> dict[Path, int]:
    """When each file that is part of something finished was written."""
    files = [path for path in home.rglob("*") if path.is_file() and ".partial" not in str(path) and path.name != ".lock"]
    return {path: path.stat().st_mtime_ns for path in files}


def begin(context: ForkServerContext, family: str, settings: Settings) -> ForkServerProcess:
    process = context.Process(target=exports.run, args=(family, settings))
    process.start()
    return process


def run_until_killed(context: ForkServerContext, family: str, settings: Settings, known: set[str]) -> set[str]:
    """Run an export and kill it as soon as it begins something that is not in `known`: what that was, nothing at its end."""
    process = begin(context, family, settings)
    deadline = time.monotonic() + SECONDS
    while process.is_alive():
        assert time.monotonic() < deadline
        begun = half_made(settings.home) - known
        if begun:
            process.kill()  # SIGKILL
            process.join()
            return begun
        time.sleep(0.001)
    assert process.exitcode == 0
    return set()


def contents(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def test_a_killed_export_goes_on_where_it_was_and_gives_the_same_bytes(
    family: str, context: ForkServerContext, tmp_path: Path
) -> None:
    spec = FAMILIES[family]
    variant = next(name for name in spec.usable_variants if name != "demo")
    write_checkpoint(family, tmp_path / "tiny")

    def settings(home: str) -> Settings:
        (tmp_path / home).mkdir()
        given = {"variant": variant, "precision": spec.default_precision, "checkpoint": str(tmp_path / "tiny")}
        return Settings(home=tmp_path / home, target="cpu", **given)

    killed, straight = settings("killed"), settings("straight")
    killed_in: set[str] = set()
    done: dict[Path, int] = {}
    while begun := run_until_killed(context, family, killed, killed_in):
        killed_in |= begun
        now = finished(killed.home)
        assert done.items() <= now.items(), "what was finished was done again"
        done = now
    assert done.items() <= finished(killed.home).items()
    everything = {"calibration", "graph", "blocks"}
    assert everything <= killed_in and everything == stages(killed.home)
    undisturbed = begin(context, family, straight)
    undisturbed.join(SECONDS)
    assert undisturbed.exitcode == 0
    assert contents(killed.home) == contents(straight.home)
    verify(killed.home / "artifacts" / family / variant / "transformer" / f"{spec.default_precision}-cpu")
