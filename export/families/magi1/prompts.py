"""What the pipeline is asked for while it is calibrated and verified."""

import numpy as np

from export.demo.magi1 import world
from export.demo.magi1.world import Story
from export.quantize.prompts import GENERAL

# What a published checkpoint is calibrated on, in small, short runs.
PUBLISHED_CALIBRATION = GENERAL[:2]
DEMO_CALIBRATION = 4  # prompts; spread evenly over the combinations that training saw


def calibration_prompts(_: str = "demo") -> list[str]:
    """The prompts that the demo's scales are collected on; every other one changes its motion in the middle."""
    seen = world.split()[0]
    return [_prompt(seen[index * len(seen) // DEMO_CALIBRATION], index) for index in range(DEMO_CALIBRATION)]


def verification_prompts(_: str, clips: int) -> list[str]:
    """The prompts of the clips that are compared: combinations that training never saw."""
    unseen = world.split()[1]
    return [_prompt(unseen[(7 * index) % len(unseen)], index) for index in range(clips)]


def _prompt(combination: world.Combination, index: int) -> str:
    first = combination.motion
    others = [motion for motion in world.MOTIONS if world.axis(motion) != world.axis(first)]
    motions = (first, str(np.array(others)[index % len(others)])) if index % 2 else (first,)
    return world.caption(Story(combination.colour, combination.shape, combination.background, motions))
