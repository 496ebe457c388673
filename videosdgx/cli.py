"""The `videosdgx` command: gathers the commands that each room brings and imports one only when it is called.

A laptop with only `videosdgx[client]` has no torch, and `videosdgx --help` should not wait for torch either.
"""

import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated

import typer

from videosdgx import __version__

# name -> (the extra that brings it, one line for the overview)
COMMANDS = {
    "serve": ("serve,embedded", "Start Triton with the model repository."),
    "export": ("export", "Quantize a checkpoint and compile it to an engine."),
    "plan": ("export", "What fits into memory, and how long a clip takes there: an estimate."),
    "generate": ("client", "Make a video from a prompt."),
    "models": ("client", "List the models and whether they are loaded."),
    "load": ("client", "Load a model."),
    "unload": ("client", "Unload a model and give its memory back."),
    "status": ("client", "What the engine manager knows: components, leases, memory."),
    "health": ("client", "Is the server ready? The exit code says so too."),
    "bench": ("client", "Measure a running server: overhead per step, cold and warm clips, memory after unload."),
}


def _load(name: str) -> Callable[..., None]:
    """Import the function behind a command; exits with a hint if its room is not installed."""
    (entry,) = entry_points(group="videosdgx.commands", name=name)
    try:
        function: Callable[..., None] = entry.load()
    except ModuleNotFoundError as error:
        extra = COMMANDS[name][0]
        print(f"videosdgx {name} needs {error.name}: pip install -e '.[{extra}]' in the checkout", file=sys.stderr)
        raise SystemExit(1) from None
    return function


def _overview_only() -> None:
    """Stand in for a command in the overview, which shows names and lines but calls nothing."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"videosdgx {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Serve LTX-2, Wan 2.1, MAGI-1 and Waver from one box: quantize, compile, serve, call."""


def main() -> None:
    """Entry point of the console script."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(_root)
    requested = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, (_, line) in COMMANDS.items():
        app.command(name, help=None if name == requested else line)(_load(name) if name == requested else _overview_only)
    app(prog_name="videosdgx")
