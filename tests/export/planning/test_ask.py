import pytest

from export.options import parse_resolution
from export.planning.ask import Ask, parse_bytes, requests
from videosdgx.families.request import InvalidInput
from videosdgx.families.wan21.spec import SPEC

FAMILIES = {"wan21": SPEC}
PRECISIONS = SPEC.precisions


def ask(*targets, **common):
    found, left_out = requests(targets, FAMILIES, Ask(**common))
    return [request.name for request in found], left_out


@pytest.mark.parametrize(("text", "size"), [("128GB", 128e9), ("119 GiB", 119 * 2**30), ("500mb", 500e6), ("1.5TB", 1.5e12)])
def test_bytes(text, size):
    assert parse_bytes("memory", text) == size


@pytest.mark.parametrize("text", ["128", "GB", "-3GB", "12kb", ""])
def test_not_bytes(text):
    with pytest.raises(InvalidInput, match=rf"memory is {text!r}, it must be a number with MB, GB"):
        parse_bytes("memory", text)


def test_resolution():
    assert parse_resolution("832x480") == (832, 480)
    with pytest.raises(InvalidInput, match="resolution is '480p', it must be WIDTHxHEIGHT"):
        parse_resolution("480p")


def test_targets():
    everything, left_out = ask()
    assert len(everything) == 3 * len(PRECISIONS) and not left_out
    assert ask("wan21")[0] == everything
    assert ask("wan21:t2v-14b")[0] == [f"wan21:t2v-14b:{precision}" for precision in PRECISIONS]
    assert ask("wan21:demo:fp8", "wan21:t2v-14b:nvfp4", "wan21:demo:fp8")[0] == ["wan21:demo:fp8", "wan21:t2v-14b:nvfp4"]


def test_a_target_without_a_precision_means_those_that_are_shown():
    found, _ = requests(["wan21:demo", "wan21:demo:fp16"], FAMILIES, Ask(), ("fp8",))
    assert [request.precision for request in found] == ["fp8", "fp16"]


def test_defaults_are_the_variants_own():
    (request,), _ = requests(["wan21:t2v-14b:fp8"], FAMILIES, Ask(steps=4, guided=False))
    assert (request.width, request.height, request.frames, request.steps) == (832, 480, 81, 4)
    assert not request.guided


@pytest.mark.parametrize(
    ("target", "common", "message"),
    [
        ("wan22", {}, "family is 'wan22', it must be one of wan21"),
        ("wan21:huge", {}, "unknown variant 'huge' of wan21; there are: demo, t2v-1.3b"),
        ("wan21:demo:int8", {}, "precision is 'int8', it must be one of fp16, bf16, fp8, nvfp4"),
        ("wan21:i2v-14b-720p", {}, "variant 'i2v-14b-720p' of wan21 cannot be used yet: image to video needs an image encoder"),
        ("wan21:demo:fp8:x", {}, "target is 'wan21:demo:fp8:x'"),
        ("wan21:demo", {"resolution": (832, 480)}, "width is 832, it must be a multiple of 16 from 32 to 128 for demo"),
        ("wan21:t2v-14b", {"frames": 80}, r"frames is 80, it must be 4k\+1 from 1 to 81 for t2v-14b"),
        ("wan21:t2v-1.3b", {"resolution": (1280, 720)}, "width x height x frames is 74649600, at most 32348160 are allowed"),
        ("wan21:t2v-14b", {"steps": 0}, "steps is 0, it must be a whole number from 1 to 100"),
        ("wan21", {"frames": 80}, "no variant can make such a clip: frames is 80"),
    ],
)
def test_what_cannot_be_planned(target, common, message):
    with pytest.raises(InvalidInput, match=message):
        ask(target, **common)


def test_variants_not_named_are_left_out_with_the_reason():
    names, left_out = ask(resolution=(1280, 720))
    assert {name.split(":")[1] for name in names} == {"t2v-14b"}
    assert any("wan21:demo is left out: width is 1280" in reason for reason in left_out)
