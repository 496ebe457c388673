"""`make demo`: from a checkpoint to a video on this machine, with the commands that a person would type.

python -m client.demo                                       # each family in turn: outputs/wan21.mp4, its frames in a .png, ...
python -m client.demo magi1 --picture docs/magi1_demo.png   # several prompts in one picture
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from client.contact_sheet import draw, read_clip, save
from client.errors import ClientError
from client.local_server import local_server, program
from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT

OUTPUTS = CHECKOUT / "outputs"
SEED = 7


def run(*arguments: str) -> None:
    """Run a `videosdgx` command and show it, as a first lesson in using it.

    Raises:
        ClientError: it failed; it said why itself.
    """
    print(f"$ videosdgx {' '.join(f'{x!r}' if ' ' in x else x for x in arguments)}", flush=True)
    if subprocess.run([program(), *arguments], stdin=subprocess.DEVNULL).returncode != 0:
        raise ClientError(f"videosdgx {arguments[0]} failed, see above")


def show(family: str, prompts: tuple[str, ...]) -> list[Path]:
    """Export a family's demo if it is missing, serve it, generate a video for each prompt, stop.

    Returns:
        The videos, `outputs/<family>.mp4` first.

    Raises:
        ClientError: one of the commands failed.
    """
    spec = FAMILIES[family]
    precision = spec.default_precision
    run("export", family, "--variant", "demo", "--precision", precision, "--target", "cpu")
    options = ["--target", "cpu", "--family", family, "--precision", f"{family}={precision}", "--variant", f"{family}=demo"]
    # What is made in chunks can be watched while it is made.
    growing = ["--play-while-generating"] if spec.variants["demo"].window_size else []
    OUTPUTS.mkdir(exist_ok=True)
    videos = []
    print("starting a Triton server on free ports", flush=True)
    with local_server(options, OUTPUTS / "server.log") as server:
        print(f"ready at {server.url} after {server.ready_seconds:.1f} s", flush=True)
        for number, prompt in enumerate(prompts):
            video = OUTPUTS / (f"{family}-{number}.mp4" if number else f"{family}.mp4")
            run("generate", family, prompt, "--seed", str(SEED), *growing, "-o", str(video), "--url", server.url)
            videos.append(video)
    return videos


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export demo checkpoints, serve them, and make a video with each.")
    parser.add_argument("families", nargs="*", metavar="family", help=f"{', '.join(FAMILIES)}; default: each in turn")
    parser.add_argument("--picture", type=Path, help="show all examples of the family, in this PNG")
    wanted = parser.parse_args()
    families = list(dict.fromkeys(wanted.families)) or list(FAMILIES)
    if unknown := [family for family in families if family not in FAMILIES]:
        parser.error(f"unknown family {unknown[0]!r}; there are: {', '.join(FAMILIES)}")
    if wanted.picture and len(families) > 1:
        parser.error("--picture is for one family")
    try:
        for family in families:
            began = time.monotonic()
            prompts = FAMILIES[family].examples[: None if wanted.picture else 1]
            videos = show(family, prompts)
            picture = wanted.picture or OUTPUTS / f"{family}.png"
            save(draw([read_clip(video, prompt) for prompt, video in zip(prompts, videos, strict=True)]), picture)
            print(*(f"video:   {video}" for video in videos), f"picture: {picture}", sep="\n")
            print(f"{FAMILIES[family].title} took {time.monotonic() - began:.0f} s\n", flush=True)
    except (ClientError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
