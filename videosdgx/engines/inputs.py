"""Checking an engine's inputs against its manifest, so that a mistake is a message and not a crash."""

from collections.abc import Mapping

import numpy as np

from videosdgx.artifacts import Manifest, Profile, TensorSpec


def check_inputs(manifest: Manifest, inputs: Mapping[str, np.ndarray]) -> None:
    """Check names, dtypes, ranks, fixed axes, that equally named axes agree, and the profiles' limits.

    Raises:
        ValueError: naming the input, what it has and what is allowed.
    """
    specs = {spec.name: spec for spec in manifest.inputs}
    for name in specs.keys() | inputs.keys():
        if name not in inputs:
            raise ValueError(f"input {name} is missing; this engine takes {', '.join(specs)}")
        if name not in specs:
            raise ValueError(f"unknown input {name}; this engine takes {', '.join(specs)}")
    axes: dict[str, tuple[int, str]] = {}
    for name, spec in specs.items():
        _check_one(spec, inputs[name], axes)
    if manifest.profiles:
        choose_profile(manifest.profiles, {name: array.shape for name, array in inputs.items()})


def _check_one(spec: TensorSpec, array: np.ndarray, axes: dict[str, tuple[int, str]]) -> None:
    if array.dtype != np.dtype(spec.dtype):
        raise ValueError(f"input {spec.name} has dtype {array.dtype}, this engine takes {spec.dtype}")
    wanted = f"[{', '.join(str(axis) for axis in spec.shape)}]"
    if array.ndim != len(spec.shape):
        raise ValueError(f"input {spec.name} has shape {list(array.shape)}, this engine takes {wanted}")
    for length, axis in zip(array.shape, spec.shape, strict=True):
        if (isinstance(axis, int) and length != axis) or length < 1:
            raise ValueError(f"input {spec.name} has shape {list(array.shape)}, this engine takes {wanted}")
        if isinstance(axis, str):
            known, where = axes.setdefault(axis, (length, spec.name))
            if known != length:
                raise ValueError(f"axis {axis!r} is {length} in input {spec.name} but {known} in input {where}")


def choose_profile(profiles: list[Profile], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Index of the profile that allows `shapes` (input name -> shape) with the least to spare.

    Raises:
        ValueError: none allows them; names the first input that is outside, and the limits.
    """
    fitting = [i for i, profile in enumerate(profiles) if _outside(profile, shapes) is None]
    if fitting:
        return min(fitting, key=lambda i: sum(int(np.prod(shape)) for shape in profiles[i].max.values()))
    name = next(name for profile in profiles if (name := _outside(profile, shapes)) is not None)
    limits = " or ".join(f"{profile.min[name]} to {profile.max[name]}" for profile in profiles)
    raise ValueError(f"input {name} has shape {list(shapes[name])}, this engine takes {limits}")


def _outside(profile: Profile, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for name, low in profile.min.items():
        sizes = zip(low, shapes[name], profile.max[name], strict=True)
        if not all(least <= size <= most for least, size, most in sizes):
            return name
    return None
