"""A folder of reference tensors: its manifest, models and cases (the format is described in the folder's README)."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


class Reference:
    """Reads a folder as far as asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        if self.manifest["format"] != 1:
            raise ValueError(f"the manifest's format is {self.manifest['format']}, this reads 1")

    @cached_property
    def cases(self) -> list[dict[str, Any]]:
        """The cases listed, and one for each table that the manifest names beside them."""
        tables = [name for name in ("schedules", "text_cleaning") if name in self.manifest]
        return [*self.manifest["cases"], *({"name": name, "kind": name, "file": self.manifest[name]} for name in tables)]

    def tensors(self, case: dict[str, Any]) -> dict[str, Tensor]:
        """All tensors of a case by name."""
        return self.load(case["file"])

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file of the folder."""
        return load_file(self.folder / name)

    def table(self, case: dict[str, Any]) -> Any:
        """The JSON file of a case."""
        return json.loads((self.folder / case["file"]).read_text())

    def model(self, name: str) -> dict[str, Any]:
        """What the manifest says of a model: its configuration and weights file."""
        model: dict[str, Any] = self.manifest["models"][name]
        return model
