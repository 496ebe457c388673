"""The families' tables: everything that they name is there, and what they do not name is an error."""

import inspect
from typing import get_args

import pytest

from videosdgx.artifacts import Target
from videosdgx.families import FAMILIES
from videosdgx.families.networks import Generate
from videosdgx.families.request import GenerationRequest
from videosdgx.families.spec import Component, FamilySpec, Input, by_name, did_you_mean, inputs_by_name, load

EVERY = pytest.mark.parametrize("spec", FAMILIES.values(), ids=FAMILIES)


@EVERY
def test_what_the_table_names_is_there(spec: FamilySpec) -> None:
    for component in spec.components.values():
        assert list(inspect.signature(load(component.opener)).parameters)[:2] == ["directory", "manifest"], component.name
    wanted = list(inspect.signature(Generate.__call__).parameters)[1:]
    made = load(spec.generate)
    assert list(inspect.signature(made).parameters) == wanted and inspect.isgeneratorfunction(made)


@EVERY
def test_the_table_is_whole(spec: FamilySpec) -> None:
    assert all(name == one.name for table in (spec.components, spec.inputs, spec.variants) for name, one in table.items())
    assert spec.default_precision in spec.precisions and "demo" in spec.usable_variants
    for component in spec.components.values():
        for target in get_args(Target):
            assert target in component.torch or component.engine[target], (component.name, target)
    for one in spec.inputs.values():
        assert (one.low is None) == (one.high is None)
        # These are fields of a request that no input fills by itself.
        assert one.name not in ("start", "prefix", "more") and (one.is_list or one.dims == (1,))
    for name in ("prompt", "seed", "response_format"):
        assert name in spec.inputs and name in GenerationRequest.__dataclass_fields__


def test_what_is_in_no_table_is_an_error_that_says_what_there_is() -> None:
    wan = FAMILIES["wan21"]
    with pytest.raises(ValueError, match="unknown component 'refiner' of wan21; there are: text_encoder, transformer, vae"):
        wan.component("refiner")
    with pytest.raises(ValueError, match=r"unknown variant 't2v-2b' of wan21; there are: demo, t2v-1\.3b, t2v-14b$"):
        wan.variant("t2v-2b")
    with pytest.raises(ValueError, match="variant 'i2v-14b-720p' of wan21 cannot be used yet: image to video needs an image"):
        wan.variant("i2v-14b-720p")
    with pytest.raises(ValueError, match="x is there twice"):
        by_name([Input("x", "INT32", "a"), Input("x", "FP32", "b")])
    for place in ("videosdgx.nothing:x", "videosdgx.families.spec:nothing"):
        with pytest.raises((ImportError, AttributeError), match="nothing"):
            load(place)


def test_an_engine_comes_before_pytorch_and_before_what_was_chosen() -> None:
    parts = FAMILIES["wan21"].components
    assert parts["vae"].served("sm121", "nvfp4") == ("fp16", "bf16", "fp32")
    assert parts["vae"].served("cpu", "nvfp4") == ("fp32",)
    assert parts["transformer"].served("cpu", "nvfp4") == ("nvfp4",)
    assert parts["text_encoder"].served("sm121", "nvfp4") == ("bf16",)
    assert Component("x", (), (), "a:b", engine={"cpu": ("fp16",)}).served("cpu", "fp8") == ("fp8",)


def test_limits_in_words() -> None:
    assert Input("x", "FP32", "x", low=0.0, high=30.0).allowed == "0 to 30"
    assert Input("x", "INT64", "x", low=0, high=2**32 - 1, limits="drawn").allowed == "0 to 4294967295; drawn"
    assert Input("x", "BYTES", "x", choices=("a", "b")).allowed == "a, b"
    assert Input("x", "BYTES", "x", most_characters=9).allowed == "at most 9 characters"
    assert Input("x", "BOOL", "x").allowed == ""


def test_an_input_is_found_in_each_form_with_its_families() -> None:
    found = inputs_by_name(FAMILIES.values())
    assert list(found["prompt"].values()) == [list(FAMILIES)]
    assert list(found["window_size"].values()) == [["magi1"]]
    assert list(found["fps"].values()) == [["wan21"], ["magi1"]]  # magi1's has a remark of its own


def test_the_nearest_name_is_offered_if_one_is_near() -> None:
    assert did_you_mean("widht", ["height", "width"]) == ", did you mean width?"
    assert did_you_mean("audio", ["height", "width"]) == ""
