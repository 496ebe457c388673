"""What `videosdgx serve` decided, as the Triton models' processes read it."""

import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from videosdgx.artifacts import CONFIG, MANIFEST, PIPELINE, ArtifactError, Manifest, Target, artifact_dir, read_manifest
from videosdgx.families import FAMILIES
from videosdgx.families.spec import Variant

VARIABLE = "VIDEOSDGX_SETTINGS"


class FamilySettings(BaseModel):
    """Which variant of a family is served, and in which precision those of its components that leave a choice."""

    variant: str
    precision: str


class Settings(BaseModel):
    """Everything that the processes of one server share."""

    home: Path
    target: Target
    families: dict[str, FamilySettings]
    http_port: int
    grpc_port: int
    metrics_port: int
    address: str = "127.0.0.1"
    allow_random_weights: bool = False

    def artifact(self, family: str, component: str) -> Path:
        """The directory of the artifact that serves `component` (`PIPELINE` for the weightless rest) of `family`.

        Of the precisions that can serve it, it is the first that was exported; if none was, the last.

        Raises:
            ValueError: the family has no such component.
        """
        chosen = self.families[family]
        if component == PIPELINE:
            precisions: tuple[str, ...] = (CONFIG,)
        else:
            precisions = FAMILIES[family].component(component).served(self.target, chosen.precision)
        places = [
            artifact_dir(self.home, family, chosen.variant, component, precision, self.target) for precision in precisions
        ]
        return next((place for place in places if (place / MANIFEST).exists()), places[-1])

    def variant(self, family: str) -> Variant:
        """The variant that is served of `family`, sampled as its exported engines want it.

        A manifest that is missing or not valid says nothing here: the component that loads it refuses it, and says why.
        """
        spec = FAMILIES[family]
        variant = spec.variant(self.families[family].variant)
        for name in (name for name, part in spec.components.items() if not part.torch):
            with suppress(ArtifactError):
                variant = variant.sampled(read_manifest(self.artifact(family, name)).few_step)
        return variant

    def has(self, family: str) -> bool:
        """Whether anything was exported of what is served of `family`."""
        return (self.artifact(family, PIPELINE) / MANIFEST).exists()

    def refuse_unwanted(self, directory: Path) -> Manifest:
        """The manifest of an artifact, unless it must not be served.

        Raises:
            ArtifactError: it is missing, or it has random weights and those were not asked for.
        """
        manifest = read_manifest(directory)
        if manifest.random_weights and not self.allow_random_weights:
            raise ArtifactError(f"{directory} has random weights: serve it with --allow-random-weights, or export a checkpoint")
        return manifest

    def http_url(self) -> str:
        """Where this machine reaches the server's HTTP endpoint; the wildcard addresses include the loopback ones."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)
        return f"http://{f'[{address}]' if ':' in address else address}:{self.http_port}"

    def component_record(self, model: str) -> Path:
        """Where a loaded component writes who it is (see `component.py`)."""
        return self.home / "run" / str(self.http_port) / f"{model}.json"


def load_settings() -> Settings:
    """The settings of the server that this process belongs to."""
    return Settings.model_validate_json(os.environ[VARIABLE])
