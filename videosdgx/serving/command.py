"""`videosdgx serve`."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from videosdgx.artifacts import PIPELINE, ArtifactError, Target, read_manifest
from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT, default_home
from videosdgx.serving.settings import FamilySettings, Settings
from videosdgx.serving.triton.launch import (
    ServerProblem,
    check_port,
    check_shared_memory,
    command_line,
    environment,
    find_triton,
)

GRACE_SECONDS = 15


def parse_choices(option: str, values: list[str]) -> dict[str, str]:
    """`["wan21=nvfp4"]` -> `{"wan21": "nvfp4"}`.

    Raises:
        ServerProblem: not of that form, or no such family.
    """
    choices = {}
    for value in values:
        family, separator, choice = value.partition("=")
        if not separator or family not in FAMILIES:
            raise ServerProblem(f"{option} is {value!r}, it must be FAMILY=VALUE with a family of {', '.join(FAMILIES)}")
        choices[family] = choice
    return choices


def choose_families(names: list[str], variants: list[str], precisions: list[str]) -> dict[str, FamilySettings]:
    """What is served of each family, from the options and the families' defaults; no names: all of them.

    Raises:
        ServerProblem: an unknown family, variant or precision, or one of a family that is not served.
    """
    for name in names:
        if name not in FAMILIES:
            raise ServerProblem(f"--family is {name!r}, it must be one of {', '.join(FAMILIES)}")
    variant_of, precision_of = parse_choices("--variant", variants), parse_choices("--precision", precisions)
    chosen = {}
    for name, spec in FAMILIES.items():
        if names and name not in names:
            if name in variant_of or name in precision_of:
                raise ServerProblem(f"--variant or --precision names {name}, which --family leaves out")
            continue
        variant = variant_of.get(name, "demo")
        precision = precision_of.get(name, spec.default_precision)
        try:
            spec.variant(variant)
        except ValueError as error:
            raise ServerProblem(f"--variant {name}={variant}: {error}") from None
        if precision not in spec.precisions:
            raise ServerProblem(f"--precision {name}={precision}: {name} has the precisions {', '.join(spec.precisions)}")
        chosen[name] = FamilySettings(variant=variant, precision=precision)
    return chosen


def choose_target(wanted: str | None) -> Target:
    """The target that was named; by default `sm121` where there is an NVIDIA GPU, else `cpu`.

    Raises:
        ServerProblem: there is no such target.
    """
    if wanted is not None:
        if wanted not in get_args(Target):
            raise ServerProblem(f"--target is {wanted!r}, it must be {' or '.join(get_args(Target))}")
        return cast(Target, wanted)
    return "sm121" if Path("/dev/nvidiactl").exists() or Path("/dev/nvgpu").exists() else "cpu"


def export_missing(settings: Settings, family: str) -> None:
    """Export the demo of a family if it is not there yet: work that a first user should not have to know of.

    Raises:
        ServerProblem: an artifact of another variant is missing, or the export failed.
    """
    chosen = settings.families[family]
    try:
        for component in (PIPELINE, *FAMILIES[family].components):
            settings.refuse_unwanted(settings.artifact(family, component))
    except ArtifactError as error:
        command = ["export", family, "--variant", chosen.variant, "--precision", chosen.precision]
        command += ["--target", settings.target, "--home", str(settings.home)]
        if chosen.variant != "demo":
            raise ServerProblem(f"{error}. Make it with: videosdgx {' '.join(command)}") from None
        checkpoint = FAMILIES[family].variants["demo"].checkpoint
        if not (CHECKOUT / checkpoint).is_dir():
            raise ServerProblem(f"{error}, and there is no demo checkpoint at {checkpoint} to make it from") from None
        print(f"{error}. Exporting the demo once: videosdgx {' '.join(command)}", flush=True)
        if subprocess.run([str(Path(sys.executable).parent / "videosdgx"), *command]).returncode != 0:
            raise ServerProblem("the export of the demo failed, see above") from None


def leave_out_missing(settings: Settings, asked_for: set[str]) -> Settings:
    """Settings without the families that have no artifacts, so that these do not stop the others.

    The demo of a family that was asked for by name is exported first; if nothing at all is there, that of the first family.

    Raises:
        ServerProblem: one of the families that somebody asked for by name has none, or no family has.
    """
    served = {}
    # A server that has something to serve must not keep its users waiting for the export of another family.
    nothing = not any(settings.has(family) for family in settings.families)
    to_export = {next(iter(settings.families))} if nothing and not asked_for else asked_for
    for family, chosen in settings.families.items():
        try:
            if family not in to_export and not settings.has(family):
                raise ServerProblem(f"it is not exported; videosdgx serve --family {family} does that")
            export_missing(settings, family)
            served[family] = chosen
        except ServerProblem as problem:
            if family in asked_for:
                raise
            print(f"videosdgx serve: going on without {family}: {problem}", file=sys.stderr, flush=True)
    if not served:
        raise ServerProblem("there is no family to serve, see above")
    return settings.model_copy(update={"families": served})


def announce(process: subprocess.Popen[bytes], settings: Settings) -> None:
    """Print one line when the server is ready."""
    url = settings.http_url()
    started = time.monotonic()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=1):
                break
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    else:
        return
    for family, chosen in settings.families.items():
        digest = read_manifest(settings.artifact(family, "transformer"))
        print(f"{family}: {chosen.variant} in {chosen.precision} on {settings.target} ({digest.runtime})", flush=True)
    print(
        f"ready after {time.monotonic() - started:.1f} s: HTTP {url}, gRPC {settings.address}:{settings.grpc_port}, "
        f"metrics http://{settings.address}:{settings.metrics_port}/metrics. Ctrl-C stops.",
        flush=True,
    )


def run_server(settings: Settings, verbose: bool) -> int:
    """Run Triton until it ends or is told to; returns its exit code (0 after Ctrl-C or SIGTERM)."""
    scratch = settings.component_record("").parent
    scratch.mkdir(parents=True, exist_ok=True)
    for record in scratch.glob("*.json"):
        record.unlink()
    triton = find_triton(scratch)
    process = subprocess.Popen(command_line(triton, settings, verbose), env=environment(settings), start_new_session=True)
    stopping = threading.Event()

    def stop(_signal: int, _frame: object) -> None:
        stopping.set()
        process.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=announce, args=(process, settings), daemon=True).start()
    while process.poll() is None:
        if stopping.wait(0.2):
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the models' processes, which are in its session
    if stopping.is_set():
        return 0
    print(f"videosdgx serve: Triton ended with code {process.returncode}, see its messages above", file=sys.stderr)
    return process.returncode or 1


def serve(
    http_port: Annotated[int, typer.Option(help="Port of Triton's HTTP endpoint.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port of Triton's gRPC endpoint.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of the Prometheus metrics.")] = 8002,
    address: Annotated[str, typer.Option(help="Address to listen on; only this machine by default.")] = "127.0.0.1",
    home: Annotated[Path | None, typer.Option(help="Where artifacts are. Default: $VIDEOSDGX_HOME or home/ here.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="Serve only this family, such as wan21. Repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="FAMILY=PRECISION, such as wan21=nvfp4. Repeatable.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="FAMILY=VARIANT, such as wan21=t2v-1.3b. Repeatable.")] = None,
    target: Annotated[str | None, typer.Option(help="cpu or sm121. Default: sm121 where there is a GPU.")] = None,
    allow_random_weights: Annotated[bool, typer.Option(help="Serve engines that were exported without a checkpoint.")] = False,
    verbose: Annotated[bool, typer.Option(help="Show Triton's own messages.")] = False,
) -> None:
    """Start Triton with the model repository, listening on this machine only.

    The weights are loaded with the first request that needs them; load and unload them yourself with
    [bold]videosdgx load[/] and [bold]videosdgx unload[/], or with Triton's repository API.

    Serves the families that are exported. One that an option names has its demo exported first, and so has the first
    family if nothing is there at all; the others are left out, with a line that says so.

    Examples:

        videosdgx serve

        videosdgx serve --family magi1

        videosdgx serve --precision wan21=nvfp4 --http-port 9000 --grpc-port 9001 --metrics-port 9002

        videosdgx serve --variant wan21=t2v-1.3b --precision wan21=fp8      (on the Spark)
    """
    try:
        settings = Settings(
            home=(home or default_home()).expanduser().resolve(),
            target=choose_target(target),
            families=choose_families(family or [], variant or [], precision or []),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            address=address,
            allow_random_weights=allow_random_weights,
        )
        if not (CHECKOUT / "model_repository").is_dir():
            raise ServerProblem("no model_repository beside the package: install from a checkout with pip install -e")
        ports = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
        if len(set(ports.values())) < len(ports):
            raise ServerProblem(f"the three ports must differ, they are {', '.join(map(str, ports.values()))}")
        for option, port in ports.items():
            check_port(address, port, option)
        check_shared_memory()
        named = {*(family or []), *parse_choices("--variant", variant or []), *parse_choices("--precision", precision or [])}
        settings = leave_out_missing(settings, named)
        code = run_server(settings, verbose)
    except (ServerProblem, OSError) as problem:
        print(f"videosdgx serve: {problem}", file=sys.stderr)
        code = 1
    raise SystemExit(code)
