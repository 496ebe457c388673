"""Errors as values: the Triton status that fits an exception (docs/design.md, rule 6)."""

from typing import Any

import triton_python_backend_utils as pb_utils

from videosdgx.artifacts import ArtifactError
from videosdgx.families.request import InvalidInput
from videosdgx.serving.triton.calls import CallFailed


class Cancelled(Exception):
    """The client no longer wants the result."""


def as_triton_error(error: Exception, model: str) -> Any:
    """A Triton error with the status code that fits."""
    kind = pb_utils.TritonError
    codes = [
        (InvalidInput, kind.INVALID_ARG),
        (Cancelled, kind.CANCELLED),
        (ArtifactError, kind.UNAVAILABLE),
        (CallFailed, kind.UNAVAILABLE),
    ]
    code = next((code for cls, code in codes if isinstance(error, cls)), kind.INTERNAL)
    text = str(error) if code != kind.INTERNAL else f"{type(error).__name__}: {error}"
    return kind(f"{model}: {text}", code)


def event_from_error(error: Any, generation_id: str) -> dict[str, Any]:
    """The last event of a generation that failed."""
    return {"id": generation_id, "phase": "failed", "error": error.message(), "code": error.code().name}


def error_from_event(event: dict[str, Any]) -> Any | None:
    """The Triton error that a failed generation's event tells of; None for every other event."""
    if event["phase"] != "failed":
        return None
    return pb_utils.TritonError(event["error"], getattr(pb_utils.TritonError, event["code"]))
