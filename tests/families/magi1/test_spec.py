"""MAGI-1's facts hold together."""

import pytest

from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule
from videosdgx.families.magi1.spec import SPEC
from videosdgx.families.request import InvalidInput, parse_request
from videosdgx.families.spec import Variant


def test_every_published_network_is_a_variant() -> None:
    assert set(SPEC.variants) == {"demo", *TRANSFORMERS}
    assert all(bool(TRANSFORMERS[name].get("distilled")) == bool(SPEC.variants[name].step_counts) for name in TRANSFORMERS)


@pytest.mark.parametrize("variant", SPEC.variants.values(), ids=lambda variant: variant.name)
def test_defaults_can_be_asked_for_and_scheduled(variant: Variant) -> None:
    request = parse_request({"prompt": "a red circle", "seed": 1}, SPEC, variant)
    assert request.num_frames == 96 and request.fps == 24 and request.window_size == 4
    assert ChunkSchedule(request.num_inference_steps, request.window_size, 4).num_updates > 0


def test_what_does_not_fit_is_refused() -> None:
    for inputs, message in (
        ({"num_inference_steps": 10}, "it must be a multiple of 4 with window_size 4"),
        ({"num_inference_steps": 4, "window_size": 8}, "window_size is 8"),
        ({"width": 24}, "width is 24, it must be a multiple of 16 from 32 to 128"),
    ):
        with pytest.raises(InvalidInput, match=message):
            parse_request({"prompt": "a red circle"} | inputs, SPEC, SPEC.variants["demo"])
    with pytest.raises(InvalidInput, match=r"num_inference_steps is 20, variant 4\.5b-distill takes 8, 12, 16, 32, 64"):
        parse_request({"prompt": "a cat", "num_inference_steps": 20}, SPEC, SPEC.variants["4.5b-distill"])
