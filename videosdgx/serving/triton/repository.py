"""Writes `model_repository/` from the families' tables.

python -m videosdgx.serving.triton.repository             # write it
python -m videosdgx.serving.triton.repository --check     # say what differs
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from videosdgx.families import FAMILIES
from videosdgx.families.spec import Component, FamilySpec, Input, Port
from videosdgx.home import CHECKOUT
from videosdgx.serving.names import RELEASE, SECONDS, component_model

COMMAND = "python -m videosdgx.serving.triton.repository"
SOURCE = "videosdgx/serving/triton/repository.py"
FOLDER = CHECKOUT / "model_repository"

VIDEO, METADATA, EVENT = (Port(name, "BYTES", (1,)) for name in ("video", "metadata", "event"))
# One response per request is all that a client over HTTP can take; a stream sends events besides.
DECOUPLED = "model_transaction_policy { decoupled: true }"
# Of the model that answers once.
WAITING = "# Each instance waits for one generation: more of them than slots, so that a bad request is answered at once."
WAITING_INSTANCES = 4


def files() -> dict[str, str]:
    """The text of every file of the repository, by its path in there."""
    found = _model(
        "engine_manager",
        "The only one that loads components on behalf of requests.",
        "engine_manager:EngineManagerModel",
        _config("engine_manager", SOURCE, [Port("command", "BYTES", (1,))], [Port("result", "BYTES", (1,))]),
    )
    for family in FAMILIES.values():
        found |= _family(family)
        for component in family.components.values():
            found |= _component(family, component)
    return found


def _family(family: FamilySpec) -> dict[str, str]:
    """`<family>`, one answer per request, and `<family>_stream`, which does the work."""
    name, source = family.name, _table(family)
    ports = [_port(one) for one in family.inputs.values()]
    once = _config(name, source, ports, [VIDEO, METADATA], instances=WAITING_INSTANCES, notes=[WAITING])
    stream = _config(f"{name}_stream", source, ports, [EVENT, VIDEO, METADATA], policy=DECOUPLED)
    return {
        **_model(name, f"{family.title}, one answer per request.", "sync:SyncModel", once),
        **_model(f"{name}_stream", f"{family.title}, with an event for each phase and step.", "stream:StreamModel", stream),
    }


def _component(family: FamilySpec, component: Component) -> dict[str, str]:
    name = component_model(family.name, component.name)
    inputs = list(component.inputs)
    if component.stateful:
        # A release comes alone, so that no other input can be required.
        inputs = [Port(port.name, port.datatype, port.dims, optional=True) for port in (*inputs, Port(RELEASE, "BYTES", (1,)))]
    outputs = [*component.outputs, Port(SECONDS, "FP64", (1,))]
    config = _config(name, _table(family), inputs, outputs, about=component.about)
    holds = f"Holds the {component.name.replace('_', ' ')} of {family.title}"
    keeps = ", and what it keeps for each generation" if component.stateful else ""
    return _model(name, f"{holds}{keeps}.", "component:ComponentModel", config)


def _table(family: FamilySpec) -> str:
    return f"videosdgx/families/{family.name}/spec.py"


def _port(one: Input) -> Port:
    return Port(one.name, one.datatype, one.dims, optional=not one.required)


def _model(name: str, about: str, model: str, config: str) -> dict[str, str]:
    """The two files of a Triton model; `model` is `module:class` below `videosdgx.serving.models`."""
    module, _, model_class = model.partition(":")
    code = (
        f'"""{about}"""\n\n'
        f"# Written by {COMMAND}.\n"
        f"from videosdgx.serving.models.{module} import {model_class} as TritonPythonModel\n\n"
        '__all__ = ["TritonPythonModel"]\n'
    )
    return {f"{name}/config.pbtxt": config, f"{name}/1/model.py": code}


def _config(
    name: str,
    source: str,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    policy: str = "",
    about: str = "",
    instances: int = 1,
    notes: Sequence[str] = (),
) -> str:
    """A `config.pbtxt`."""
    lines = [
        f"# Written by {COMMAND} from {source}: change it there.",
        f'name: "{name}"',
        'backend: "python"',
        "max_batch_size: 0",
        *([policy] if policy else []),
        *([f"# {about}"] if about else []),
        *_ports("input", inputs),
        *_ports("output", outputs),
        *notes,
        f"instance_group [ {{ kind: KIND_CPU count: {instances} }} ]",
    ]
    return "\n".join(lines) + "\n"


def _ports(kind: str, ports: Sequence[Port]) -> list[str]:
    return [f"{kind} [", ",\n".join(f"  {_line(port)}" for port in ports), "]"]


def _line(port: Port) -> str:
    datatype = "STRING" if port.datatype == "BYTES" else port.datatype
    dims = ", ".join(map(str, port.dims))
    optional = " optional: true" if port.optional else ""
    return f'{{ name: "{port.name}" data_type: TYPE_{datatype} dims: [ {dims} ]{optional} }}'


def differences(folder: Path = FOLDER) -> list[str]:
    """What of the repository in `folder` is not as the tables say, one line for each file."""
    wanted = files()
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".pbtxt", ".py")}
    found = [f"{name} is of no model in the tables" for name in sorted(present - wanted.keys())]
    for name, text in wanted.items():
        if name not in present:
            found.append(f"{name} is missing")
        elif (folder / name).read_text() != text:
            found.append(f"{name} is not as its table says")
    return found


def write(folder: Path = FOLDER) -> None:
    """Write every file; what is of no model in the tables stays."""
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the model repository from the families' tables.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    if not parser.parse_args().check:
        write()
    left = differences()
    if left:
        parser.exit(1, "".join(f"{line}\n" for line in [*left, f"write them anew: {COMMAND}"]))


if __name__ == "__main__":
    main()
