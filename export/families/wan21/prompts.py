"""What the pipeline is asked for while it is calibrated and verified."""

from export.demo import world
from export.demo.wan21.evaluate import unseen_prompts

DEMO_CALIBRATION = 12  # prompts; spread evenly over the combinations that training saw

# Ours, for the real checkpoints: motion of many kinds, people, animals, landscapes, light and dark, near and far.
GENERAL = (
    "a red fox trots through fresh snow in a birch forest, low winter sun, the camera moves along beside it",
    "waves roll onto a black sand beach at dusk, seen from above, foam spreading in slow patterns",
    "an old man repairs a wooden clock at a cluttered workbench, warm lamp light, close view of his hands",
    "a city street in heavy rain at night, neon signs mirrored in puddles, people hurry past with umbrellas",
    "a hummingbird hovers before an orange flower, blurred garden behind it, macro lens",
    "a steam train crosses a stone viaduct in a green valley, white smoke drifting, wide shot",
    "a child in a yellow coat runs across a meadow with a paper kite, wind in the grass",
    "molten glass is blown and turned in a dark workshop, glowing orange, sparks in the air",
    "a cat jumps from a windowsill onto a sofa and curls up, soft morning light, static camera",
    "clouds race over a snow covered mountain ridge, time lapse, hard shadows",
    "a dancer in a white dress spins on an empty stage under a single spotlight",
    "a bowl of noodles is lifted with chopsticks, steam rising, shallow depth of field",
    "an astronaut walks slowly over grey dust, the earth above the horizon, film grain",
    "a school of silver fish turns all at once above a coral reef, sunbeams from the surface",
    "a watercolour animation of a sailing boat leaving a small harbour at sunrise",
    "a robot arm paints a portrait on a canvas in a bright studio, slow dolly in",
)


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
