"""Artifacts of every family for the CPU, from tiny checkpoints: what serving does does not depend on what they know."""

import multiprocessing
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import repeat
from pathlib import Path

from videosdgx.families import FAMILIES

PRECISION = "fp16"  # needs no calibration


def write_checkpoint(family: str, folder: Path) -> None:
    """A family's tiny checkpoint, in diffusers' layout."""
    import_module(f"tests.families.{family}.tiny").write_checkpoint(folder)


def write_tiny_home(home: Path, families: Iterable[str] = FAMILIES) -> None:
    """Everything that `videosdgx serve --target cpu` needs to serve the demo variants in `PRECISION`."""
    # Tracing a network takes ten seconds on one core, however small it is.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_artifacts, repeat(home), families))


def _write_artifacts(home: Path, family: str) -> None:
    """The exporter's own work, without calibrating or verifying."""
    from export.families import recipes
    from export.run import exporter
    from export.run.job import CPU_DTYPES, Settings
    from tests.export import exports

    checkpoint = home / "checkpoints" / family
    write_checkpoint(family, checkpoint)
    settings = Settings(home=home, variant="demo", precision=PRECISION, target="cpu", checkpoint=str(checkpoint))
    for component, recipe in recipes(family).items():
        if recipe.is_main:
            job = exports.job(family, settings, component)
            exporter.prepare(job)
            exporter.write_artifact(job, {}, exporter.write_graph(job, {}, CPU_DTYPES))
    shutil.rmtree(home / "work" / "export" / family)
