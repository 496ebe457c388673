"""Parameters of a request, beside its inputs. Triton's `generate` makes one of every JSON field that is no input."""

import json
from collections.abc import Mapping
from typing import Any

from videosdgx.families.request import InvalidInput
from videosdgx.families.spec import FamilySpec, did_you_mean

WHOLE, CANCEL = "whole", "cancel"
# What each of ours has to be.
_OURS: dict[str, tuple[type, str]] = {WHOLE: (bool, "true or false"), CANCEL: (str, "the id of a generation")}
# Triton's own: it takes them out of most requests, but not of those to `generate`.
_TRITONS = (
    "id",
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "binary_data_output",
)


def read_parameters(text: str | None, spec: FamilySpec, ours: tuple[str, ...] = (WHOLE, CANCEL)) -> dict[str, Any]:
    """Those of our parameters that a request has.

    Args:
        text: all its parameters, as Triton gives them: JSON, or nothing.
        spec: the family, for whose inputs users take them.
        ours: those that the model knows.

    Raises:
        InvalidInput: naming a parameter that nobody knows, or that is not of its type.
    """
    given: Mapping[str, Any] = json.loads(text or "{}")
    for name, value in given.items():
        if name in ours:
            kind, words = _OURS[name]
            if not isinstance(value, kind):
                raise InvalidInput(f"{name} is {value!r}, it must be {words}")
        elif name in spec.inputs:
            raise InvalidInput(f"{name} was given as a parameter of the request, it must be an input")
        elif name not in _TRITONS and not name.startswith("triton_"):
            raise InvalidInput(f"{name} is no input of {spec.name}{did_you_mean(name, spec.inputs)}")
    return {name: given[name] for name in ours if name in given}
