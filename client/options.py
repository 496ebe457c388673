"""The options of `videosdgx generate`: one for each input in the families' tables."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import GenericAlias
from typing import Any

import typer

from videosdgx.families import FAMILIES
from videosdgx.families.spec import Input, inputs_by_name

# The prompt is an argument, and the format follows from the name of the output.
NO_OPTIONS = ("prompt", "response_format")
INPUTS = {name: forms for name, forms in inputs_by_name(FAMILIES.values()).items() if name not in NO_OPTIONS}
TYPES = {"BYTES": str, "BOOL": bool, "INT32": int, "INT64": int, "FP32": float, "FP64": float}


def with_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each input in place of its `**inputs`.

    Typer learns a command's options from its signature, so that is where they are put.
    """
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    parameters = [*own, *map(_option, INPUTS)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _option(name: str) -> inspect.Parameter:
    forms = INPUTS[name]
    one = next(iter(forms))  # all of them have one type
    kind: Any = Path if one.file else TYPES[one.datatype]
    full = f"--{name.replace('_', '-')}"
    names = dict.fromkeys((one.option or full, full))
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=typer.Option(None, *names, help=option_help(forms), rich_help_panel="Inputs of the model"),
        annotation=(GenericAlias(list, kind) if one.is_list else kind) | None,
    )


def option_help(forms: Mapping[Input, list[str]]) -> str:
    """What an input does and its limits, with the families' names where not all have it so.

    Such as `How closely to follow the prompt (wan21: 0 to 30)`.
    """
    words: dict[str, None] = {}  # each once, in this order
    for one, families in forms.items():
        who = "" if len(families) == len(FAMILIES) else ", ".join(families)
        notes = [note for note in (who, one.allowed) if note]
        words |= {f"{one.meaning[0].upper()}{one.meaning[1:]}": None}
        words |= {f"({': '.join(notes)})": None} if notes else {}
    return " ".join(words)


def contents(given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that were given, files as their bytes.

    Raises:
        OSError: a file cannot be read.
    """
    values = {name: value for name, value in given.items() if value not in (None, [])}
    return {name: value.read_bytes() if isinstance(value, Path) else value for name, value in values.items()}
