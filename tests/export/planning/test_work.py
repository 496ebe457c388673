import pytest

from export.planning.gb10 import BANDWIDTH, PEAK_FLOPS
from export.planning.work import Bytes, Clip, Operation, Part, Request, together
from videosdgx.families.wan21.spec import DEMO


def part(weights: float, activation: float, runs: int = 1, operations: tuple[Operation, ...] = ()) -> Part:
    return Part("part", "fp16", Bytes(weights, "counted"), Bytes(activation, "counted"), operations, runs)


def clip(*parts: Part) -> Clip:
    return Clip(Request("wan21", DEMO, "fp16", 64, 64, 9, 20), parts)


def test_an_operation_takes_the_longer_of_computing_and_moving():
    computing = Operation("product", "fp8", flops=PEAK_FLOPS["fp8"], bytes=BANDWIDTH / 4)
    moving = Operation("copy", "fp8", flops=PEAK_FLOPS["fp8"] / 4, bytes=3 * BANDWIDTH)
    assert computing.seconds(1.0) == 1
    assert computing.seconds(0.5) == 2
    assert moving.seconds(1.0) == 3
    whole = clip(part(0, 0, runs=10, operations=(computing, moving)), part(0, 0, operations=(computing,)))
    assert whole.seconds(1.0) == pytest.approx(10 * 4 + 1)
    assert whole.flops == pytest.approx(10 * 1.25 * PEAK_FLOPS["fp8"] + PEAK_FLOPS["fp8"])


def test_lower_precision_has_the_higher_peak():
    assert PEAK_FLOPS["nvfp4"] == 2 * PEAK_FLOPS["fp8"] == 4 * PEAK_FLOPS["fp16"] > 4 * PEAK_FLOPS["fp32"]


def test_memory_loaded_and_by_turns():
    whole = clip(part(10, 1), part(20, 4), part(1, 6))
    assert whole.resident(1) == 31 + 6
    assert whole.resident(3) == 31 + 18
    assert whole.by_turns(1) == 24
    assert whole.by_turns(5) == 40


def test_memory_of_several_models():
    one, every = together([clip(part(10, 1)), clip(part(20, 4))], concurrency=2)
    assert (one, every) == (30 + 8, 30 + 2 + 8)
