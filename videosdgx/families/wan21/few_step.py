"""Wan 2.1's samplers: the official one, and the two for weights distilled to a few steps.

Distilled weights (docs/specs/wan21.md, section 8) are trained to jump from any of a few noise levels to the clean clip at once.
Their reference sampler is no ODE step: from x at sigma and the velocity v it takes x0 = x - sigma * v, and mixes x0 with
fresh noise at the next sigma; the last step returns x0. Euler's step, which keeps the noise it started from, is common
and works too. Both run on the levels 1000, 750, 500, 250 of the shifted schedule: with shift 5 the sigmas 1, 0.9375,
0.8333 and 0.625.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from torch import Tensor

from videosdgx.families.spec import Sampler

# Of the published few-step weights (docs/specs/wan21.md, section 8).
SHIFT = 5.0

Generators = torch.Generator | list[torch.Generator]


class FewStepScheduler(FlowMatchEulerDiscreteScheduler):
    """diffusers' flow-matching scheduler (with `stochastic_sampling` it mixes in fresh noise) on the distilled levels.

    Two things differ from diffusers. The levels are evenly spaced from 1 to 1/n before they are shifted, where diffusers
    ends at its smallest sigma. And as `WanPipeline` gives `step` no generator, the scheduler can hold the request's own:
    without one it refuses to draw noise, which nobody could draw again. One scheduler serves one request at a time.
    """

    generator: Generators | None = None

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Sigmas s * x / (1 + (s - 1) * x) for shift s and x = 1 - i / n, then 0; timesteps are 1000 * sigma in fp32."""
        levels = [1 - index / num_inference_steps for index in range(num_inference_steps)]
        super().set_timesteps(sigmas=levels, device=device)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor,
        sample: Tensor,
        generator: Generators | None = None,
        return_dict: bool = True,
        **_: Any,
    ) -> FlowMatchEulerDiscreteSchedulerOutput | tuple[Tensor]:
        """The latents [B, ...] at the next sigma, in fp32 whatever the velocity's dtype is.

        Args:
            model_output: velocity (noise - data) of the shape of `sample`.
            timestep: one of `timesteps`.
            sample: the latents at this sigma.
            generator: where noise comes from; by default the scheduler's own. A list has one for each clip of the batch.
            return_dict: whether to return an object rather than a tuple.

        Raises:
            ValueError: noise is needed and there is no generator.
        """
        generator = generator if generator is not None else self.generator
        if self.config.stochastic_sampling and generator is None:
            raise ValueError("this sampler draws noise at every step: give it a generator with share_generator")
        # diffusers casts the result to the model's dtype, and a bf16 sum of latents would lose what a step adds.
        return super().step(model_output.float(), timestep, sample, generator=generator, return_dict=return_dict)


def build_scheduler(directory: Path, sampler: Sampler, flow_shift: float) -> Any:
    """A scheduler for one request: `unipc` from the checkpoint's scheduler folder `directory`, or one of the two above."""
    if sampler == "unipc":
        return UniPCMultistepScheduler.from_pretrained(directory, flow_shift=flow_shift)
    return FewStepScheduler(shift=flow_shift, stochastic_sampling=sampler == "renoise")


def share_generator(scheduler: Any, generator: Generators) -> None:
    """Let a scheduler that draws noise continue the request's own sequence; the others need none."""
    if isinstance(scheduler, FewStepScheduler):
        scheduler.generator = generator
