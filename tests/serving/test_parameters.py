"""Fields that are no input arrive as parameters of a request, and are refused by name."""

import json

import pytest

from videosdgx.families import FAMILIES
from videosdgx.families.request import InvalidInput
from videosdgx.serving.parameters import read_parameters

WAN, MAGI = FAMILIES["wan21"], FAMILIES["magi1"]


def test_ours_are_read_and_those_of_triton_are_left_alone() -> None:
    given = {"whole": True, "priority": 1, "timeout": 5, "triton_enable_empty_final_response": True, "sequence_id": 3}
    assert read_parameters(json.dumps(given), WAN) == {"whole": True}
    assert read_parameters(json.dumps({"cancel": "a"}), WAN) == {"cancel": "a"}
    assert read_parameters("", WAN) == read_parameters(None, WAN) == read_parameters("{}", WAN) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sead": 3}, "sead is no input of wan21, did you mean seed?"),
        ({"Width": 64}, "Width is no input of wan21, did you mean width?"),
        ({"window_size": 4}, "window_size is no input of wan21"),
        ({"stream": False}, "stream is no input of wan21"),
        ({"seed": 3}, "seed was given as a parameter of the request, it must be an input"),
        ({"whole": "yes"}, "whole is 'yes', it must be true or false"),
        ({"cancel": 7}, "cancel is 7, it must be the id of a generation"),
    ],
)
def test_others_are_refused_by_name(given: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_parameters(json.dumps(given), WAN)
    assert str(caught.value) == words


def test_a_model_takes_only_what_it_knows() -> None:
    with pytest.raises(InvalidInput, match="cancel is no input of magi1"):
        read_parameters('{"cancel": "a"}', MAGI, ("whole",))
