"""The command `videosdgx export`, and its stages, as tests call them."""

from pathlib import Path

import typer
from rich.console import Console
from typer.testing import CliRunner

from export import cli
from export.families import recipes
from export.run import exporter
from export.run.job import Job, Settings
from export.run.progress import Report

APP = typer.Typer()
APP.command()(cli.export)


def export(*arguments: str) -> tuple[int, str]:
    """Exit code and output, in one line, of the command."""
    result = CliRunner().invoke(APP, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def job(family: str, settings: Settings, component: str = "transformer") -> Job:
    return Job(recipes(family)[component], settings, Report(Console(quiet=True)))


def run(family: str, settings: Settings, component: str = "transformer") -> Path:
    """The directory of the artifact."""
    with Report(Console(quiet=True)) as report:
        return exporter.export(recipes(family)[component], settings, report)
