"""Python values to Triton tensors.

Types come from the model's own metadata, not from the families' tables: so families that add inputs need no new client.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.utils import triton_to_np_dtype

from client.errors import InvalidValue
from videosdgx.families.spec import did_you_mean

One = str | bytes | int | float | bool
Value = One | Sequence[One]


def to_tensors(values: Mapping[str, Value | None], model: Mapping[str, Any]) -> list[InferInput]:
    """One tensor of shape [1] for each value that is not None, or of shape [n] for a list or tuple of n values.

    Args:
        values: input name -> value.
        model: the model's metadata as Triton gives it (`inputs` with `name`, `datatype` and `shape`).

    Raises:
        InvalidValue: the model has no such input, or the value does not fit the input's type.
    """
    inputs = {entry["name"]: entry for entry in model["inputs"]}
    tensors = []
    for name, value in values.items():
        if value is None:
            continue
        if name not in inputs:
            near = did_you_mean(name, inputs)
            has = f"{near} It has" if near else ", it has"
            raise InvalidValue(f"{model['name']} has no input {name}{has} {', '.join(inputs)}")
        many = list(value) if isinstance(value, list | tuple) else None
        if many is not None and inputs[name]["shape"] != [-1]:
            raise InvalidValue(f"{name} is {value!r}, it must be one value")
        datatype = inputs[name]["datatype"]
        array = np.concatenate([_to_array(name, one, datatype) for one in ([value] if many is None else many)])
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _to_array(name: str, value: Any, datatype: str) -> np.ndarray:
    """An array [1] with one value."""
    if datatype == "BYTES":
        if not isinstance(value, str | bytes):
            raise InvalidValue(f"{name} is {value!r}, it must be text or bytes")
        return np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
    if datatype == "BOOL":
        if not isinstance(value, bool | np.bool_):
            raise InvalidValue(f"{name} is {value!r}, it must be True or False")
        return np.array([value], dtype=np.bool_)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidValue(f"{name} is {value!r}, it must be a number")
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        if not math.isfinite(value) or value != int(value) or not limits.min <= value <= limits.max:
            raise InvalidValue(f"{name} is {value!r}, it must be a whole number from {limits.min} to {limits.max}")
        value = int(value)
    return np.array([value], dtype=dtype)
