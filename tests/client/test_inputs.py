"""Values become tensors of the types that the model's metadata names."""

import numpy as np
import pytest

from client.errors import InvalidValue
from client.inputs import to_tensors

MODEL = {
    "name": "later_stream",
    "inputs": [
        {"name": "prompt", "datatype": "BYTES", "shape": [1]},
        {"name": "width", "datatype": "INT32", "shape": [1]},
        {"name": "seed", "datatype": "INT64", "shape": [1]},
        {"name": "guidance_scale", "datatype": "FP32", "shape": [1]},
        {"name": "with_sound", "datatype": "UINT8", "shape": [1]},
        {"name": "loop", "datatype": "BOOL", "shape": [1]},
        {"name": "strengths", "datatype": "FP32", "shape": [-1]},
        {"name": "images", "datatype": "BYTES", "shape": [-1]},
    ],
}


def test_values_that_are_none_are_not_sent() -> None:
    tensors = to_tensors({"prompt": "größer", "width": None, "seed": 2**32 - 1, "guidance_scale": 3, "with_sound": 1}, MODEL)
    assert [(t.name(), t.datatype(), t.shape()) for t in tensors] == [
        ("prompt", "BYTES", [1]),
        ("seed", "INT64", [1]),
        ("guidance_scale", "FP32", [1]),
        ("with_sound", "UINT8", [1]),
    ]


def test_numbers_of_numpy_are_numbers() -> None:
    assert len(to_tensors({"width": np.int64(64), "guidance_scale": np.float32(2.5)}, MODEL)) == 2


def test_a_list_is_sent_whole_where_the_model_takes_any_number() -> None:
    values = {"strengths": [0.5, 1], "images": (b"a", b"b", b"c"), "loop": True}
    assert [(t.name(), t.datatype(), t.shape()) for t in to_tensors(values, MODEL)] == [
        ("strengths", "FP32", [2]),
        ("images", "BYTES", [3]),
        ("loop", "BOOL", [1]),
    ]
    assert to_tensors({"strengths": 0.5}, MODEL)[0].shape() == [1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("width", 2**31, "from -2147483648 to 2147483647"),
        ("width", 1.5, "whole number"),
        ("width", float("nan"), "whole number"),
        ("width", float("inf"), "whole number"),
        ("width", True, "must be a number"),
        ("width", "64", "must be a number"),
        ("seed", 2**63, "whole number from"),
        ("prompt", 7, "text or bytes"),
        ("depth", 7, "later_stream has no input depth, it has prompt, width, seed, guidance_scale, with_sound"),
        ("widht", 7, "later_stream has no input widht, did you mean width? It has prompt, width, seed"),
        ("loop", 1, "True or False"),
        ("seed", [1, 2], "one value"),
        ("strengths", [0.5, "x"], "must be a number"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(name: str, value: object, words: str) -> None:
    with pytest.raises(InvalidValue, match=name) as caught:
        to_tensors({name: value}, MODEL)  # type: ignore[dict-item]
    assert words in str(caught.value)
