import numpy as np
import pytest

from export.demo.magi1 import judge, world
from export.demo.magi1.world import CHUNK_FRAMES, Story
from export.demo.world import SHAPES
from videosdgx.families.magi1.sampling.text import prompt_of_chunk, split_then

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def stories() -> list[Story]:
    """One of each combination of shape, motion and change of motion, colours and backgrounds in turn."""
    found = []
    for index, shape in enumerate(SHAPES):
        for first in world.MOTIONS:
            others = [motion for motion in world.MOTIONS if world.axis(motion) != world.axis(first)]
            for motions in [(first,), *((first, other) for other in others)]:
                place = len(found) + index
                colour = list(world.COLOURS)[place % 5]
                background = list(world.BACKGROUNDS)[place // 5 % 5]
                found.append(Story(colour, shape, background, motions))
    return found


@pytest.mark.parametrize("chunks", [4, 5])
def test_the_judge_is_right_on_every_rendered_clip(chunks: int) -> None:
    rng = np.random.default_rng(chunks)
    verdicts = []
    for story in stories():
        verdicts.append(judge.judge(world.render(story, story.per_chunk(chunks), rng), story))
    result = judge.success(verdicts)
    assert result.everything == result.clips == 36


def test_the_judge_sees_what_is_wrong() -> None:
    rng = np.random.default_rng(0)
    story = Story("red", "circle", "teal", ("right", "up"))
    centre = np.float32(32)
    frames = np.arange(4 * CHUNK_FRAMES, dtype=np.float32)
    way = np.stack([judge.fold(20 + 0.9 * frames, 14, 50), np.full_like(frames, centre)], axis=1)
    assert judge._follows(way, np.full(96, 380.0), "circle", ["right"] * 4)
    assert not judge._follows(way, np.full(96, 380.0), "circle", ["left"] * 4)
    assert not judge._follows(way, np.full(96, 380.0), "circle", ["right", "right", "up", "up"])
    turned = way.copy()
    turned[30:, 0] = 2 * way[30, 0] - way[30:, 0]  # in the middle of the picture
    assert not judge._follows(turned, np.full(96, 380.0), "circle", ["right"] * 4)
    still = np.repeat(way[:1], 96, axis=0)
    assert not judge._follows(still, np.full(96, 380.0), "circle", ["right"] * 4)
    jumped = way.copy()
    jumped[48:, 1] += 3
    assert judge.jump(jumped) > 2 > judge.jump(way)
    clip = world.render(story, story.per_chunk(4), rng)
    other = judge.judge(clip, Story("blue", "square", "black", ("right", "up")))
    assert (other.colour, other.shape, other.background, other.motion) == (False, False, False, True)


def test_nothing_is_right_where_there_is_nothing() -> None:
    plain = np.full((96, 64, 64, 3), world.BACKGROUNDS["teal"], dtype=np.float32)
    verdict = judge.judge(plain, Story("red", "circle", "teal", ("right",)))
    assert verdict == judge.Verdict(False, False, True, False, False)


def test_the_object_keeps_inside_and_bounces() -> None:
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        centres, radius = world.trajectory(shape, ["right"] * 6, rng)
        low, high = world.limits(shape, radius)
        assert (centres >= low - 1e-4).all() and (centres <= high + 1e-4).all()
        assert np.ptp(centres[:, 1]) == 0
        assert (np.diff(np.sign(np.diff(centres[:, 0]))) != 0).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("motion", world.MOTIONS)
def test_the_first_chunk_goes_as_its_caption_says_from_its_first_frame_to_its_last(shape: str, motion: str) -> None:
    for seed in range(20):
        centres, _ = world.trajectory(shape, [motion] * 2, np.random.default_rng(seed))
        steps = np.diff(centres[:CHUNK_FRAMES], axis=0)
        directions = np.array(world.DIRECTIONS[motion])
        np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-4)
        assert 1.2 < steps[0] @ directions <= world.SPEED[1] + 1e-4


def test_a_motion_changes_at_the_boundary_of_chunks_only() -> None:
    centres, _ = world.trajectory("circle", ["right", "up"], np.random.default_rng(0))
    steps = np.diff(centres, axis=0)
    assert (steps[: CHUNK_FRAMES - 1, 1] == 0).all() and (steps[CHUNK_FRAMES - 1 :, 0] == 0).all()


def test_the_pipeline_splits_captions_as_the_world_does() -> None:
    story = Story("red", "circle", "teal", ("right", "up"))
    prompts = split_then(world.caption(story))
    parts = [world.captions(story.part(motion))[0] for motion in story.per_chunk(5)]
    assert [prompt_of_chunk(prompts, index, 5) for index in range(5)] == parts


def test_the_split_is_fixed_disjoint_and_keeps_a_fifth_out() -> None:
    training, held_out = world.split()
    assert len(held_out) == 0.2 * 300
    assert set(training) | set(held_out) == set(world.combinations())
    assert not set(training) & set(held_out)
    rng = np.random.default_rng(0)
    allowed = {"left": True, "right": True, "up": False, "down": True}
    drawn = {motion for _ in range(50) for motion in world.draw_motions("left", allowed, 6, 0.5, rng)}
    assert "up" not in drawn and "down" in drawn
