"""`make demo`: from a checkpoint to a video on this machine, with the commands that a person would type.

python -m client.demo wan21 magi1                             # outputs/wan21.mp4, its frames in outputs/wan21.png, ...
python -m client.demo magi1 --picture docs/magi1_demo.png     # several prompts in one picture
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.contact_sheet import draw, read_clip, save
from client.errors import ClientError
from client.local_server import local_server, program
from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT

OUTPUTS = CHECKOUT / "outputs"


@dataclass(frozen=True)
class Demo:
    """What a family shows: prompts that differ in every respect, the first of them in `make demo`.

    `options` are more options of `videosdgx generate`.
    """

    seed: int
    prompts: tuple[str, ...]
    options: tuple[str, ...] = ()


DEMOS = {
    "wan21": Demo(
        seed=7,
        prompts=(
            "a red circle moving right on a teal background",
            "a white square growing on a purple background",
            "a yellow triangle moving up on a black background",
            "a blue square moving left on a gray background",
        ),
    ),
    "magi1": Demo(
        seed=7,
        prompts=(
            "a red circle moving right then up on a teal background",
            "a white square moving down on a purple background",
            "a yellow triangle moving left then down on a black background",
            "a green circle moving up then right on a gray background",
        ),
        options=("--play-while-generating",),
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


def show(wanted: Mapping[str, tuple[str, ...]]) -> dict[str, list[Path]]:
    """Export what is missing, serve, generate a video for each prompt of each family, stop.

    Returns:
        The videos of each family, `outputs/<family>.mp4` first.

    Raises:
        ClientError: one of the commands failed.
    """
    options = ["--target", "cpu"]
    for family in wanted:
        precision = FAMILIES[family].default_precision
        run("export", family, "--variant", "demo", "--precision", precision, "--target", "cpu")
        options += ["--family", family, "--precision", f"{family}={precision}", "--variant", f"{family}=demo"]
    OUTPUTS.mkdir(exist_ok=True)
    videos: dict[str, list[Path]] = {}
    print("starting a Triton server on free ports", flush=True)
    with local_server(options, OUTPUTS / "server.log") as server:
        print(f"ready at {server.url} after {server.ready_seconds:.1f} s", flush=True)
        for family, prompts in wanted.items():
            demo = DEMOS[family]
            for number, prompt in enumerate(prompts):
                video = OUTPUTS / (f"{family}-{number}.mp4" if number else f"{family}.mp4")
                arguments = ["--seed", str(demo.seed), *demo.options, "-o", str(video), "--url", server.url]
                run("generate", family, prompt, *arguments)
                videos.setdefault(family, []).append(video)
    return videos


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export demo checkpoints, serve them, and make a video with each.")
    parser.add_argument("families", nargs="+", choices=DEMOS, metavar="family", help=", ".join(DEMOS))
    parser.add_argument("--picture", type=Path, help="show all the prompts of the family, in this PNG")
    wanted = parser.parse_args()
    families = list(dict.fromkeys(wanted.families))
    if wanted.picture and len(families) > 1:
        parser.error("--picture is for one family")
    prompts = {family: DEMOS[family].prompts[: None if wanted.picture else 1] for family in families}
    try:
        made = show(prompts)
        for family, videos in made.items():
            picture = wanted.picture or OUTPUTS / f"{family}.png"
            save(draw([read_clip(video, prompt) for prompt, video in zip(prompts[family], videos, strict=True)]), picture)
            print(*(f"video:   {video}" for video in videos), f"picture: {picture}", sep="\n")
    except (ClientError, OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
