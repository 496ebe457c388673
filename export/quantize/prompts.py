"""What published checkpoints of any family are calibrated and verified on: prompts in ordinary language."""

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
