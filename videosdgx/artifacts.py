"""Artifacts: directories that explain themselves (a manifest) and are loaded only if every digest agrees.

Layout below a home directory, one component each:

    HOME/artifacts/<family>/<variant>/<component>/<precision>-<target>/
        manifest.json   what this is, how it was made, how accurate it is, how much memory it takes, SHA-256 of every file
        ...             the files themselves (model.onnx + weights, engine.plan, safetensors, tokenizer, ...)
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

MANIFEST = "manifest.json"
# The weightless rest of a pipeline (tokenizer, scheduler, configurations) is an artifact too; it has nothing to quantize.
PIPELINE, CONFIG = "pipeline", "config"

Target = Literal["cpu", "sm121"]
Runtime = Literal["onnxruntime", "tensorrt", "tensorrt_rtx", "torch", "none"]


class ArtifactError(Exception):
    """An artifact is missing, incomplete or not what its manifest says."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FileEntry(_Strict):
    """SHA-256 (hex) and size in bytes of one file."""

    sha256: str
    bytes: int


class TensorSpec(_Strict):
    """Name, numpy-style dtype and shape of an engine's input or output; a string in the shape names a dynamic axis."""

    name: str
    dtype: str
    shape: list[int | str]


class Profile(_Strict):
    """One range of shapes that an engine accepts: input name -> shape, at the least, typically and at the most.

    `activation_bytes` is the compiler's figure; `cache_bytes` what the engine's user keeps of each chunk of a clip at the most.
    """

    name: str
    min: dict[str, list[int]]
    opt: dict[str, list[int]]
    max: dict[str, list[int]]
    activation_bytes: int | None = None
    cache_bytes: int | None = None


class Memory(_Strict):
    """Bytes, and who said so (the compiler's printout, the files' sizes, a measurement)."""

    weights_bytes: int
    activation_bytes: int | None = None
    peak_bytes: int | None = None
    source: str


class Calibration(_Strict):
    """What the scales were collected on. The digest is over the prompts and settings, so equal sets compare equal."""

    prompts: int
    steps: int
    sha256: str


class FusedLora(_Strict):
    """A LoRA that was fused into the weights: file name, SHA-256 (hex), strength, number of layers changed."""

    name: str
    sha256: str
    scale: float
    layers: int


class FewStep(_Strict):
    """How weights that were distilled to a few steps make a clip.

    `renoise` mixes in fresh noise at every step, `euler` keeps the noise it started from; `shift` is that of the noise levels.
    The guidance is distilled into the weights: a scale of 1 is none.
    """

    sampler: Literal["renoise", "euler"]
    steps: int
    shift: float
    guidance_scale: float = 1.0


class Manifest(_Strict):
    """Everything a person or the server must know of an artifact (docs/design.md, rule 4). No times, so it is reproducible.

    `recipe` is a digest of all that the artifact was made from: an export that would make it again need not run.
    """

    format: Literal[1] = 1
    family: str
    variant: str
    component: str
    precision: str
    target: Target
    runtime: Runtime
    versions: dict[str, str]
    source: str
    recipe: str = ""
    random_weights: bool = False
    loras: list[FusedLora] = []
    few_step: FewStep | None = None
    policy: dict[str, str] = {}
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    profiles: list[Profile] = []
    calibration: Calibration | None = None
    accuracy: dict[str, float] = {}
    memory: Memory | None = None
    remarks: list[str] = []
    files: dict[str, FileEntry] = {}

    @model_serializer(mode="wrap")
    def _only_what_is_said(self, usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most artifacts have nothing to say of: theirs keep the bytes, and the digest, that they always had."""
        content: dict[str, Any] = usual(self)
        if self.few_step is None:
            content.pop("few_step", None)
        return content


def sha256_file(path: Path, report: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hex, read in 4 MiB pieces; `report` is told the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            if report:
                report(len(piece))
    return digest.hexdigest()


def artifact_dir(home: Path, family: str, variant: str, component: str, precision: str, target: str) -> Path:
    """Where an artifact lives below `home`."""
    return home / "artifacts" / family / variant / component / f"{precision}-{target}"


def _files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path.relative_to(directory).as_posix(), path


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an artifact directory, without checking the files.

    Raises:
        ArtifactError: there is none, or it is not a valid manifest.
    """
    path = directory / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"no artifact at {directory}: {MANIFEST} is missing") from None
    except ValidationError as error:
        raise ArtifactError(f"{path} is not a valid manifest: {error}") from None


def verify(directory: Path) -> Manifest:
    """Check every file of an artifact against its manifest and return the manifest.

    Raises:
        ArtifactError: naming the first file that is missing, added, cut short or changed.
    """
    manifest = read_manifest(directory)
    present = dict(_files_below(directory))
    for name in sorted(manifest.files.keys() | present.keys()):
        entry, path = manifest.files.get(name), present.get(name)
        if entry is None:
            raise ArtifactError(f"{directory / name} is not listed in {MANIFEST}: refusing to load the artifact")
        if path is None:
            raise ArtifactError(f"{directory / name} is listed in {MANIFEST} but missing: export the artifact again")
        if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
            raise ArtifactError(f"{path} points outside its artifact: refusing to load it")
        size = path.stat().st_size
        if size != entry.bytes:
            raise ArtifactError(f"{path} has {size} bytes, its manifest says {entry.bytes}: export the artifact again")
        digest = sha256_file(path)
        if digest != entry.sha256:
            raise ArtifactError(
                f"{path} has SHA-256 {digest[:12]}..., its manifest says {entry.sha256[:12]}...: refusing to load it"
            )
    return manifest


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def building(directory: Path, keep_partial: bool = False) -> Iterator[Path]:
    """Build an artifact beside its final place; it appears there, whole, only if the block and `seal` succeed.

    Yields `<directory>.partial`, to be filled and sealed. With `keep_partial` a failed attempt stays, for a resume.
    """
    partial = directory.with_name(directory.name + ".partial")
    if not keep_partial and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        read_manifest(partial)
    except BaseException:
        if not keep_partial:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)


def seal(directory: Path, manifest: Manifest) -> Manifest:
    """Digest every file of `directory` into the manifest and write it; the last step of an export."""
    files = {name: FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size) for name, path in _files_below(directory)}
    sealed = manifest.model_copy(update={"files": files})
    write_atomically(directory / MANIFEST, (sealed.model_dump_json(indent=2) + "\n").encode())
    return sealed
