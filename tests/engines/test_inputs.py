import numpy as np
import pytest

from videosdgx.artifacts import Manifest, Profile, TensorSpec
from videosdgx.engines.inputs import check_inputs, choose_profile

SMALL = Profile(name="small", min={"x": [1, 4], "t": [1]}, opt={"x": [1, 4], "t": [1]}, max={"x": [2, 8], "t": [2]})
LARGE = Profile(name="large", min={"x": [1, 4], "t": [1]}, opt={"x": [1, 4], "t": [1]}, max={"x": [4, 32], "t": [4]})
MANIFEST = Manifest(
    family="f",
    variant="v",
    component="c",
    precision="fp16",
    target="cpu",
    runtime="onnxruntime",
    versions={},
    source="test",
    inputs=[
        TensorSpec(name="x", dtype="float32", shape=["batch", "length"]),
        TensorSpec(name="t", dtype="float32", shape=["batch"]),
    ],
    profiles=[SMALL, LARGE],
)


def given(shape: tuple[int, ...] = (1, 4), dtype: str = "float32", batch: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.zeros(shape, dtype), "t": np.zeros(batch, "float32")}


def test_good_inputs_pass():
    check_inputs(MANIFEST, given((4, 32), batch=4))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.zeros((1, 4), "float32")}, "input t is missing"),
        (given() | {"z": np.zeros(1)}, "unknown input z"),
        (given(dtype="float64"), "input x has dtype float64, this engine takes float32"),
        (given((1, 4, 1)), r"input x has shape \[1, 4, 1\], this engine takes \[batch, length\]"),
        (given((2, 4)), "axis 'batch' is 1 in input t but 2 in input x"),
        (given((1, 0)), r"input x has shape \[1, 0\]"),
        (given((1, 33)), r"input x has shape \[1, 33\], this engine takes \[1, 4\] to \[2, 8\] or \[1, 4\] to \[4, 32\]"),
    ],
)
def test_bad_inputs_are_named_with_the_limit(inputs, message):
    with pytest.raises(ValueError, match=message):
        check_inputs(MANIFEST, inputs)


def test_the_tightest_profile_is_chosen():
    assert choose_profile([LARGE, SMALL], {"x": (2, 8), "t": (2,)}) == 1
    assert choose_profile([LARGE, SMALL], {"x": (2, 9), "t": (2,)}) == 0
