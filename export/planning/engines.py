"""Memory figures of engines that were made: what the manifests of artifacts for the Spark say."""

from collections.abc import Mapping
from pathlib import Path

from export.planning.work import Bytes, Request
from videosdgx.artifacts import MANIFEST, FewStep, Manifest, artifact_dir, read_manifest
from videosdgx.families.spec import FamilySpec

TARGET = "sm121"


def _fits(manifest: Manifest, inputs: Mapping[str, list[int]]) -> int | None:
    """The least activation memory of a profile that accepts shapes like `inputs`; None if no profile tells."""
    figures = []
    for profile in manifest.profiles:
        accepts = all(
            low <= length <= high
            for name, shape in inputs.items()
            if name in profile.max
            for low, length, high in zip(profile.min[name], shape, profile.max[name], strict=True)
        )
        if accepts and profile.activation_bytes is not None:
            figures.append(profile.activation_bytes)
    return min(figures, default=None)


def few_step(home: Path, spec: FamilySpec, variant: str, precision: str) -> FewStep | None:
    """In how few steps an engine of `precision` that was exported below `home` makes a clip; None: it is none of those.

    Raises:
        ArtifactError: there is a manifest and it is not valid.
    """
    engines = (name for name, part in spec.components.items() if not part.torch)
    places = (artifact_dir(home, spec.name, variant, name, precision, TARGET) for name in engines)
    found = (read_manifest(place).few_step for place in places if (place / MANIFEST).is_file())
    return next((one for one in found if one is not None), None)


def engine_memory(
    home: Path, request: Request, component: str, precision: str, inputs: Mapping[str, list[int]]
) -> tuple[Bytes | None, Bytes | None]:
    """Bytes of weights and of activations that a manifest below `home` tells of a component; None where it tells none.

    `inputs` are the shapes of the clip; of an engine's profiles the smallest that accepts them counts.

    Raises:
        ArtifactError: there is a manifest and it is not valid.
    """
    directory = artifact_dir(home, request.family, request.variant.name, component, precision, TARGET)
    if not (directory / MANIFEST).is_file():
        return None, None
    manifest = read_manifest(directory)
    if manifest.memory is None:
        return None, None
    activation = _fits(manifest, inputs) or manifest.memory.activation_bytes
    weights = Bytes(manifest.memory.weights_bytes, "manifest")
    return weights, None if activation is None else Bytes(activation, "manifest")
