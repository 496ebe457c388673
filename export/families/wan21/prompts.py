"""What the pipeline is asked for while it is calibrated and verified."""

import numpy as np

from export.demo import judge, world
from export.demo.wan21.evaluate import unseen_prompts
from export.quantize.prompts import GENERAL

DEMO_CALIBRATION = 12  # prompts; spread evenly over the combinations that training saw


def calibration_prompts(variant: str) -> list[str]:
    """The prompts that the scales are collected on."""
    if variant != "demo":
        return list(GENERAL)
    seen, _ = world.split()
    return [world.caption(seen[index * len(seen) // DEMO_CALIBRATION]) for index in range(DEMO_CALIBRATION)]


def verification_prompts(variant: str, clips: int) -> list[str]:
    """The prompts of the clips that are compared: for the demo, combinations that training never saw."""
    if variant != "demo":
        return [GENERAL[index % len(GENERAL)] for index in range(clips)]
    return [prompt for _, prompt in unseen_prompts(clips)]


def success(clips: np.ndarray, prompts: list[str]) -> float:
    """Percent of the demo's clips [n, F, H, W, 3] that show what their prompts ask for in everything."""
    return 100 * judge.success(list(clips), [world.parse(prompt) for prompt in prompts]).rate
