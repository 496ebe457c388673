"""What one export of MAGI-1 is about."""

from functools import cached_property
from pathlib import Path

from export.check.accuracy import Bar
from export.checkpoint import reading
from export.compile import REVISION
from export.families.magi1 import official, policy
from export.families.magi1.config import MagiConfig
from export.families.magi1.profiles import chunk_profiles, text_profiles
from export.families.magi1.prompts import calibration_prompts
from export.families.magi1.source import Source
from export.quantize.linears import Format
from export.run import job
from export.run.stages import digest
from videosdgx.artifacts import Profile
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.spec import REPOSITORY, SPEC


class Job(job.Job):
    """One export's settings with what follows from them."""

    spec, revision = SPEC, 2

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint's directory; an official one is fetched and converted if need be. None for random weights."""
        settings = self.settings
        if settings.random_weights:
            return None
        return official.resolve(settings.checkpoint or self.variant.checkpoint, settings.variant, settings.home)

    @cached_property
    def source(self) -> Source:
        """The transformer's weights."""
        root, settings = self.checkpoint, self.settings
        if root is None:
            return Source("random weights", None, TRANSFORMERS[settings.variant], settings.layers)
        origin = root.name if settings.checkpoint not in (None, REPOSITORY) else self.variant.checkpoint
        return Source(origin, root / "transformer", reading.config(root / "transformer"), settings.layers)

    @property
    def config(self) -> MagiConfig:
        """The shape of the transformer that is exported."""
        return self.source.config

    @property
    def num_layers(self) -> int:
        """How many blocks are exported."""
        return self.config.num_layers

    @property
    def bars(self) -> list[Bar]:
        """What the export has to reach."""
        return policy.bars(self.settings.precision)

    @cached_property
    def formats(self) -> dict[str, Format]:
        """The format of every quantized layer."""
        return policy.formats(self.config, self.settings.precision)

    @property
    def fp8_attention(self) -> list[str]:
        """Attention is in fp16 or bf16."""
        return []

    @property
    def profiles(self) -> tuple[list[Profile], list[Profile]]:
        """Of the chunk's engine and of the text's."""
        item = self.shipped_dtypes.compute.itemsize
        chunk = chunk_profiles(self.config, self.variant, self.settings.resolutions, item)
        return chunk, text_profiles(self.config)

    def recipe(self) -> str:
        """A digest of everything that the transformer's artifact is made from."""
        settings = self.settings
        compiled = settings.target != "cpu"
        return digest(
            {
                "revision": self.revision,
                "checkpoint": self.digests,
                "formats": self.formats,
                "target": settings.target,
                "compiler": f"{settings.compiler} {REVISION}" if compiled else None,
                "profiles": [[one.model_dump() for one in part] for part in self.profiles] if compiled else [],
                "prompts": calibration_prompts(),
                "versions": self.versions(),
            }
        )
