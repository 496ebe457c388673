import numpy as np
import pytest

from export.demo import world
from export.demo.judge import judge, success
from export.demo.world import Combination


def test_the_judge_is_right_on_every_rendered_combination():
    rng = np.random.default_rng(0)
    everything = world.combinations()
    clips = [world.render(item, rng) for item in everything]
    assert success(clips, everything).all_four == len(everything) == 450


def test_the_judge_names_nothing_where_there_is_nothing():
    plain = np.full((world.FRAMES, world.SIZE, world.SIZE, 3), world.BACKGROUNDS["teal"], dtype=np.float32)
    verdict = judge(plain)
    assert (verdict.colour, verdict.shape, verdict.background, verdict.motion) == (None, None, "teal", None)


def test_the_judge_names_no_motion_where_nothing_moves():
    clip = world.render(Combination("red", "square", "gray", "left"), np.random.default_rng(0))
    still = np.repeat(clip[:1], world.FRAMES, axis=0)
    verdict = judge(still)
    assert (verdict.colour, verdict.shape, verdict.motion) == ("red", "square", None)


def test_success_counts_property_by_property():
    wanted = [Combination("red", "circle", "teal", "up"), Combination("white", "triangle", "black", "growing")]
    clips = [world.render(item, np.random.default_rng(0)) for item in wanted]
    asked = [wanted[0], Combination("white", "square", "black", "growing")]
    result = success(clips, asked)
    assert (result.colour, result.shape, result.background, result.motion, result.all_four) == (2, 1, 2, 2, 1)
    assert result.rate == 0.5
    with pytest.raises(ValueError, match="2 clips for 1 combinations"):
        success(clips, asked[:1])


def test_the_split_is_fixed_disjoint_and_keeps_a_fifth_out():
    training, held_out = world.split()
    assert len(held_out) == 0.2 * 450
    assert set(training) | set(held_out) == set(world.combinations())
    assert not set(training) & set(held_out)
    assert world.split() == (training, held_out)


def test_every_word_is_seen_in_training():
    training, _ = world.split()
    for values in (world.COLOURS, world.SHAPES, world.BACKGROUNDS, world.MOTIONS):
        seen = {getattr(item, name) for item in training for name in ("colour", "shape", "background", "motion")}
        assert set(values) <= seen


def test_every_caption_names_its_combination_and_no_other():
    for item in world.combinations():
        texts = world.captions(item)
        assert len(texts) == len(set(texts))
        assert all(world.parse(text) == item for text in texts)


def test_the_plain_caption():
    item = Combination("red", "circle", "teal", "right")
    assert world.caption(item) == "a red circle moving right on a teal background"


@pytest.mark.parametrize(
    ("text", "message"),
    [("a red circle on teal", "no motion"), ("a red blue circle moving up on teal", "two colours, red and blue")],
)
def test_a_caption_that_does_not_name_one_combination_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        world.parse(text)


def test_the_shape_stays_inside_the_picture():
    rng = np.random.default_rng(1)
    for item in world.combinations():
        clip = world.render(item, rng)
        border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1)
        # The soft tip of a triangle may just touch the border.
        assert np.ptp(border, axis=(0, 1)).max() < 0.1
