"""What a request gives reaches the family whole."""

from dataclasses import replace

import numpy as np

from tests.serving.fake_triton import Request
from videosdgx.families import FAMILIES
from videosdgx.families.request import parse_request
from videosdgx.families.spec import Input
from videosdgx.serving.models.stream import read_inputs

WAN = FAMILIES["wan21"]
STRENGTHS = Input("strengths", "FP32", "one for each image", low=0.0, high=1.0, dims=(-1,))
NAMES = Input("names", "BYTES", "of the images", most_characters=8, dims=(-1,))
WITH_LISTS = replace(WAN, inputs={**WAN.inputs, "strengths": STRENGTHS, "names": NAMES})


def text(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], dtype=np.object_)


def test_one_value_is_a_value_and_any_number_of_them_a_list() -> None:
    given = Request(
        prompt=text("x"), seed=np.array([7]), strengths=np.array([0.5, 0.25, 1.0], np.float32), names=text("a", "b")
    )
    values = read_inputs(given, WITH_LISTS)
    assert values == {"prompt": b"x", "seed": 7, "strengths": [0.5, 0.25, 1.0], "names": [b"a", b"b"]}
    request = parse_request(values, WITH_LISTS, WAN.variant("demo"))
    assert request.more == {"strengths": [0.5, 0.25, 1.0], "names": ["a", "b"]}
    assert request.numbers(WITH_LISTS)["strengths"] == [0.5, 0.25, 1.0]


def test_a_list_may_have_one_value_or_none() -> None:
    for count in (0, 1):
        assert read_inputs(Request(strengths=np.ones(count, np.float32)), WITH_LISTS) == {"strengths": [1.0] * count}
