"""`make demo`: from a checkpoint to a video on this machine, with the commands that a person would type.

python -m client.demo wan21                                   # outputs/wan21.mp4 and its frames in outputs/wan21.png
python -m client.demo wan21 --picture docs/wan21_demo.png     # several prompts in one picture
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from client.contact_sheet import draw, read_clip, save
from client.errors import ClientError
from client.local_server import local_server, program
from videosdgx.home import CHECKOUT

OUTPUTS = CHECKOUT / "outputs"


@dataclass(frozen=True)
class Demo:
    """What a family shows: prompts that differ in every respect, the first of them in `make demo`."""

    precision: str
    seed: int
    prompts: tuple[str, ...]


DEMOS = {
    "wan21": Demo(
        precision="fp8",
        seed=7,
        prompts=(
            "a red circle moving right on a teal background",
            "a white square growing on a purple background",
            "a yellow triangle moving up on a black background",
            "a blue square moving left on a gray background",
        ),
    ),
}


def run(*arguments: str) -> None:
    """Run a `videosdgx` command and show it, as a first lesson in using it.

    Raises:
        ClientError: it failed; it said why itself.
    """
    print(f"$ videosdgx {' '.join(f'{x!r}' if ' ' in x else x for x in arguments)}", flush=True)
    if subprocess.run([program(), *arguments], stdin=subprocess.DEVNULL).returncode != 0:
        raise ClientError(f"videosdgx {arguments[0]} failed, see above")


def show(family: str, prompts: tuple[str, ...], picture: Path) -> list[Path]:
    """Export what is missing, serve, generate a video for each prompt, stop, and draw the picture.

    Returns:
        The videos, `outputs/<family>.mp4` first.

    Raises:
        ClientError: one of the commands failed.
    """
    demo = DEMOS[family]
    chosen = [f"{family}={demo.precision}", f"{family}=demo"]
    run("export", family, "--variant", "demo", "--precision", demo.precision, "--target", "cpu")
    OUTPUTS.mkdir(exist_ok=True)
    videos = [OUTPUTS / (f"{family}.mp4" if number == 0 else f"{family}-{number}.mp4") for number in range(len(prompts))]
    options = ["--family", family, "--precision", chosen[0], "--variant", chosen[1], "--target", "cpu"]
    print("starting a Triton server on free ports", flush=True)
    with local_server(options, OUTPUTS / f"{family}-server.log") as server:
        print(f"ready at {server.url} after {server.ready_seconds:.1f} s", flush=True)
        for prompt, video in zip(prompts, videos, strict=True):
            run("generate", family, prompt, "--seed", str(demo.seed), "-o", str(video), "--url", server.url)
    save(draw([read_clip(video, prompt) for prompt, video in zip(prompts, videos, strict=True)]), picture)
    return videos


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export a demo checkpoint, serve it, and make a video with it.")
    parser.add_argument("family", choices=DEMOS)
    parser.add_argument("--picture", type=Path, help="show all the family's prompts, in this PNG")
    wanted = parser.parse_args()
    prompts = DEMOS[wanted.family].prompts if wanted.picture else DEMOS[wanted.family].prompts[:1]
    picture = wanted.picture or OUTPUTS / f"{wanted.family}.png"
    try:
        videos = show(wanted.family, prompts, picture)
    except (ClientError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(*(f"video:   {video}" for video in videos), f"picture: {picture}", sep="\n")


if __name__ == "__main__":
    main()
