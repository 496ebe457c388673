"""The commands that talk to a server: generate, models, load, unload, status, health."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from client.display import progress_on
from client.errors import ClientError
from client.options import contents, with_inputs
from client.output import format_of, growing
from client.tables import models_table, status_tables
from client.video_client import DEFAULT_URL, VideoClient

INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended

Url = Annotated[str, typer.Option(help="Host and HTTP port of the server.", envvar="VIDEOSDGX_URL")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextmanager
def reported(command: str) -> Iterator[None]:
    """Errors as one line on standard error and exit code 1, Ctrl-C as exit code 130."""
    try:
        yield
    except (ClientError, OSError) as error:
        print(f"videosdgx {command}: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print(f"videosdgx {command}: stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@with_inputs
def generate(
    family: Annotated[str, typer.Argument(help="A family that the server serves, such as wan21.")],
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .mp4, or a .png for one frame. Default: FAMILY-SEED.mp4 here.")
    ] = None,
    play_while_generating: Annotated[
        bool, typer.Option("--play-while-generating", help="Write each chunk into the output as soon as it is there.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Cancel after so many seconds.")] = None,
    url: Url = DEFAULT_URL,
    **inputs: Any,
) -> None:
    """Make a video from a prompt. What you leave out, the server chooses to fit the model.

    Ctrl-C cancels the generation on the server too. A family that makes a clip in chunks (magi1) can write them as they
    come: the output can be played while it grows, and what is there stays when the generation is stopped.

    Examples:

      videosdgx generate wan21 "a red circle moving right on a teal background" --seed 7 -o x.mp4

      videosdgx generate wan21 "a white square growing on a purple background" --steps 30 --duration 1 -o grow.mp4

      videosdgx generate wan21 "a blue triangle on a black background" -o still.png

      videosdgx generate wan21 "a green circle moving up on a gray background" --url spark.local:8000

      videosdgx generate magi1 "a red circle moving right then up on a teal background" -o x.mp4 --play-while-generating

      videosdgx generate magi1 "a red circle moving up on a teal background" --video x.mp4 -o longer.mp4
    """
    with reported("generate"), growing(output, play_while_generating) as on_chunk:
        response_format = format_of(output)
        values = contents(inputs)
        if response_format == "png" and "duration" not in values:
            values.setdefault("num_frames", 1)
        console, started = Console(), time.monotonic()
        with VideoClient(url) as client, progress_on(console) as on_progress:
            made = client.generate(
                family,
                prompt,
                response_format=response_format,
                on_progress=on_progress,
                on_chunk=on_chunk,
                timeout=timeout,
                **values,
            )
        facts = made.metadata
        path = output or Path(f"{family}-{facts['seed']}.mp4")
        if on_chunk is None or not on_chunk.written:
            made.save(path)
        size = f"{facts['width']}x{facts['height']}, {facts['num_frames']} frames at {facts['fps']}/s"
        print(f"{path}  ({size}, seed {facts['seed']}, {time.monotonic() - started:.1f} s)")
        if facts.get("note"):
            print(f"note: {facts['note']}")


def models(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the models of the server and whether they are loaded.

    Examples:

      videosdgx models

      videosdgx models --json --url spark.local:8000
    """
    with reported("models"):
        entries = VideoClient(url).models()
        if as_json:
            print(json.dumps(entries, indent=2))
        else:
            Console().print(models_table(entries))


def load(name: Annotated[str, typer.Argument(help="A model, see videosdgx models.")], url: Url = DEFAULT_URL) -> None:
    """Load a model and wait until it is ready, so that the next request need not.

    Example:

      videosdgx load wan21_transformer
    """
    with reported("load"):
        started = time.monotonic()
        VideoClient(url).load(name)
        print(f"{name} is ready after {time.monotonic() - started:.1f} s")


def unload(name: Annotated[str, typer.Argument(help="A model, see videosdgx models.")], url: Url = DEFAULT_URL) -> None:
    """Unload a model, which gives its memory back. The next request that needs it loads it again.

    Example:

      videosdgx unload wan21_transformer
    """
    with reported("unload"):
        started = time.monotonic()
        VideoClient(url).unload(name)
        print(f"{name} is unloaded after {time.monotonic() - started:.1f} s")


def status(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what is served, what is loaded, how much memory it takes, and who waits.

    Examples:

      videosdgx status

      videosdgx status --json | python -m json.tool
    """
    with reported("status"):
        facts = VideoClient(url).status()
        if as_json:
            print(json.dumps(facts, indent=2))
        else:
            Console().print(*status_tables(facts), sep="\n")


def health(url: Url = DEFAULT_URL) -> None:
    """Tell whether the server is ready: exit code 0 if so, else 1.

    Example:

      until videosdgx health; do sleep 1; done
    """
    with reported("health"):
        client = VideoClient(url)
        if not client.ready():
            raise ClientError(f"no ready server at {client.url}: start one with videosdgx serve")
        print(f"ready at {client.url}")
