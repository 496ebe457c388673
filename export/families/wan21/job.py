"""What one export of Wan 2.1 is about."""

from functools import cached_property

from export.check.accuracy import Bar
from export.checkpoint import lora, reading
from export.compile import REVISION
from export.families.wan21 import policy
from export.families.wan21.lowered import WanConfig
from export.families.wan21.profiles import profiles
from export.families.wan21.prompts import calibration_prompts
from export.families.wan21.source import Source
from export.quantize.linears import Format
from export.run import job
from export.run.stages import digest
from videosdgx.families.wan21.architectures import TRANSFORMERS
from videosdgx.families.wan21.spec import SPEC


class Job(job.Job):
    """One export's settings with what follows from them."""

    spec, revision = SPEC, 3

    @cached_property
    def source(self) -> Source:
        """The transformer's weights."""
        root = self.checkpoint
        if root is None:
            return Source("random weights", None, TRANSFORMERS[self.settings.variant], self.settings.layers)
        content = reading.config(root / "transformer")
        origin = root.name if self.settings.checkpoint else self.variant.checkpoint
        loras = tuple(lora.parse(text) for text in self.settings.loras)
        return Source(origin, root / "transformer", content, self.settings.layers, loras)

    @property
    def config(self) -> WanConfig:
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

    @cached_property
    def fp8_attention(self) -> list[str]:
        """The attentions whose products are in FP8."""
        return policy.fp8_attentions(self.config) if self.settings.fp8_attention else []

    def recipe(self) -> str:
        """A digest of everything that the transformer's artifact is made from."""
        settings = self.settings
        compiled = settings.target != "cpu"
        shapes = profiles(self.config, self.variant, settings.resolutions, settings.frames) if compiled else []
        return digest(
            {
                "revision": self.revision,
                "checkpoint": self.digests,
                "formats": self.formats,
                "fp8_attention": self.fp8_attention,
                "target": settings.target,
                "compiler": f"{settings.compiler} {REVISION}" if compiled else None,
                "profiles": [profile.model_dump(exclude={"cache_bytes"}) for profile in shapes],
                "prompts": calibration_prompts(settings.variant),
                "versions": self.versions(),
            }
        )
