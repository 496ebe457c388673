"""How the velocities of several evaluations become one (docs/specs/magi1.md, section 7).

Base models evaluate the same latents three times: with the text (v_pt), without text (v_p), and without text and without
the chunks before (v_u). Distilled models evaluate once, and the oldest chunk a second time when it is nearly clean.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_TOLERANCE = 1e-7  # decides at t = 0 and at t = 0.3 exactly


@dataclass(frozen=True)
class BaseGuidance:
    """Weights of the three evaluations by time: `times` are where each entry of the scales begins."""

    times: tuple[float, ...] = (0.0, 0.0217, 0.1, 0.3, 0.999)
    previous_scales: tuple[float, ...] = (1.5, 1.5, 1.5, 1.0, 1.0)
    text_scales: tuple[float, ...] = (7.5, 7.5, 7.5, 0.0, 0.0)

    def scales(self, time: float) -> tuple[float, float]:
        """Scale of the previous chunks and of the text for a chunk at `time`; compared in fp32, as the grid is made."""
        begins = torch.tensor(self.times, dtype=torch.float32) - _TOLERANCE
        index = int((begins < torch.tensor(time, dtype=torch.float32)).sum()) - 1
        return self.previous_scales[index], self.text_scales[index]

    def needs_text(self, time: float) -> bool:
        """Whether v_pt counts for a chunk at `time`; with the shipped scales it does not for t >= 0.3."""
        return self.scales(time)[1] != 0.0

    def needs_alone(self, time: float) -> bool:
        """Whether v_u counts."""
        return self.scales(time)[0] != 1.0

    def combine(self, time: float, with_text: Tensor | None, without_text: Tensor, alone: Tensor | None) -> Tensor:
        """The velocity of a chunk at `time` from v_pt, v_p and v_u; one that does not count may be None."""
        previous, text = self.scales(time)
        velocity = (previous - text) * without_text
        if alone is not None and previous != 1.0:
            velocity = velocity + (1 - previous) * alone
        if with_text is not None and text != 0.0:
            velocity = velocity + text * with_text
        return velocity


@dataclass(frozen=True)
class DistilledGuidance:
    """The oldest chunk, later than `threshold`, is mixed with itself evaluated without the chunks before it."""

    threshold: float = 0.3
    previous_scale: float = 0.7

    def needs_alone(self, time: float, chunk_range: tuple[int, int]) -> bool:
        """Whether the oldest chunk at `time` is evaluated again; a chunk that sees only itself would give the same.

        `time` is an fp32 value compared in double precision: t(3/4) = 0.3000000119 is later than 0.3.
        """
        return time > self.threshold and chunk_range[1] - chunk_range[0] > 1

    def combine(self, with_previous: Tensor, alone: Tensor) -> Tensor:
        """The velocity of the oldest chunk."""
        return self.previous_scale * with_previous + (1 - self.previous_scale) * alone


BASE_GUIDANCE = BaseGuidance()
DISTILLED_GUIDANCE = DistilledGuidance()


def guidance_of(config: Any) -> BaseGuidance | DistilledGuidance:
    """What the weights with this configuration of the transformer were made for: `distilled`, and `guidance` where it differs.

    Its rows are (time from which it holds, scale of the previous chunks, scale of the text).
    """
    if config.distilled:
        return DISTILLED_GUIDANCE
    rows = getattr(config, "guidance", ())
    if not rows:
        return BASE_GUIDANCE
    times, previous, text = zip(*rows, strict=True)
    return BaseGuidance(times, previous, text)
