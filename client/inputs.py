"""Python values to Triton tensors.

Types come from the model's own metadata, not from a list here: so families that add inputs need no new client.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import triton_to_np_dtype

from client.errors import InvalidValue

Value = str | bytes | int | float


def to_tensors(values: Mapping[str, Value | None], model: Mapping[str, Any]) -> list[InferInput]:
    """One tensor of shape [1] for each value that is not None.

    Args:
        values: input name -> value.
        model: the model's metadata as Triton gives it (`inputs` with `name` and `datatype`).

    Raises:
        InvalidValue: the model has no such input, or the value does not fit the input's type.
    """
    datatypes = {entry["name"]: entry["datatype"] for entry in model["inputs"]}
    tensors = []
    for name, value in values.items():
        if value is None:
            continue
        if name not in datatypes:
            raise InvalidValue(f"{model['name']} has no input {name}, it has {', '.join(datatypes)}")
        tensor = InferInput(name, [1], datatypes[name])
        tensor.set_data_from_numpy(_to_array(name, value, datatypes[name]))
        tensors.append(tensor)
    return tensors


def _to_array(name: str, value: Value, datatype: str) -> np.ndarray:
    if datatype == "BYTES":
        if not isinstance(value, str | bytes):
            raise InvalidValue(f"{name} is {value!r}, it must be text or bytes")
        return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidValue(f"{name} is {value!r}, it must be a number")
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        if not math.isfinite(value) or value != int(value) or not limits.min <= value <= limits.max:
            raise InvalidValue(f"{name} is {value!r}, it must be a whole number from {limits.min} to {limits.max}")
        value = int(value)
    return np.array([value], dtype=dtype)
