"""Whatever the table of a family rules out gets an error that names the input and the limit, at once, and loads nothing."""

import json
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from client import InvalidValue, ServerError, VideoClient
from tests.conftest import Server
from tests.contract.bad_values import Case, bad_values
from tests.contract.conftest import Made
from tests.contract.requests import small, variant_of
from tests.serving.calls import generate, generate_stream, post, tensor, tensors
from videosdgx.families import FAMILIES
from videosdgx.families.request import InvalidInput, parse_request
from videosdgx.families.spec import Input
from videosdgx.serving.names import component_models

PROMPT = {"prompt": "x"}
ON_THE_SERVER = [(name, case) for name, spec in FAMILIES.items() for case in bad_values(spec, variant_of(name))]
EVERY_INPUT = [(name, one) for name, spec in FAMILIES.items() for one in spec.inputs.values()]


def names(parts: Any) -> str:
    return parts if isinstance(parts, str) else parts.name


@pytest.mark.parametrize(
    ("family", "variant"), [(name, variant) for name, spec in FAMILIES.items() for variant in spec.usable_variants]
)
def test_every_variant_refuses_what_is_beyond_its_limits(family: str, variant: str) -> None:
    spec = FAMILIES[family]
    for case in bad_values(spec, spec.variant(variant)):
        with pytest.raises(InvalidInput) as caught:
            parse_request(PROMPT | case.values, spec, spec.variant(variant))
        assert all(word in str(caught.value) for word in case.words), (case.name, str(caught.value))


@pytest.fixture(scope="module")
def unloaded(client: VideoClient) -> VideoClient:
    """A client of a server that has nothing loaded, and that is no longer busy with its own start."""
    for family in FAMILIES:
        for model in component_models(family):
            client.unload(model)
    deadline = time.monotonic() + 60
    taken = 1.0
    while taken > 0.5 and time.monotonic() < deadline:
        # A server that was started a moment ago still imports PyTorch beside its first answers.
        started = time.monotonic()
        for family in FAMILIES:
            with pytest.raises(ServerError):
                client.generate(family, "")
        taken = time.monotonic() - started
    return client


def processes(client: VideoClient) -> dict[str, tuple[str, int | None]]:
    return {name: (facts["state"], facts["pid"]) for name, facts in client.status()["components"].items()}


@contextmanager
def refused_at_once(client: VideoClient, error: type[Exception], *words: str) -> Iterator[pytest.ExceptionInfo[Any]]:
    before = processes(client)
    started = time.monotonic()
    with pytest.raises(error) as caught:
        yield caught
    assert time.monotonic() - started < 1
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert processes(client) == before, "something was loaded for it"


@pytest.mark.server
@pytest.mark.parametrize(("family", "case"), ON_THE_SERVER, ids=names)
def test_a_bad_value_is_named_with_its_limit(family: str, case: Case, tiny_server: Server, unloaded: VideoClient) -> None:
    values = PROMPT | case.values
    with refused_at_once(unloaded, InferenceServerException, *case.words):
        generate(tiny_server.http_url, family, **values)
    with refused_at_once(unloaded, ServerError, *case.words) as caught:
        unloaded.generate(family, **values)
    assert "\n" not in str(caught.value)


@pytest.mark.server
@pytest.mark.parametrize(("family", "one"), EVERY_INPUT, ids=names)
def test_another_type_or_shape_is_refused_by_name(family: str, one: Input, tiny_server: Server, unloaded: VideoClient) -> None:
    other = http.InferInput(one.name, [1], "UINT16")
    other.set_data_from_numpy(np.ones(1, np.uint16))
    value = (b"x" if one.file else "x") if one.datatype == "BYTES" else 1
    two = tensor(one.name, [value, value])
    if one.is_list:
        two.set_shape([2, 1])
    others = tensors({name: text for name, text in PROMPT.items() if name != one.name})
    for wrong in (other, two):
        with (
            http.InferenceServerClient(tiny_server.http_url) as triton,
            refused_at_once(unloaded, InferenceServerException, one.name),
        ):
            triton.infer(family, [*others, wrong])
    if not one.is_list:
        with refused_at_once(unloaded, InvalidValue, f"{one.name} is", "it must be one value"):
            unloaded.generate(family, **PROMPT | {one.name: [value, value]})
    unfit = 7 if one.datatype == "BYTES" else "many"
    with refused_at_once(unloaded, InvalidValue, f"{one.name} is {unfit!r}, it must be"):
        unloaded.generate(family, **PROMPT | {one.name: unfit})


@pytest.mark.server
def test_what_is_required_is_asked_for(family: str, tiny_server: Server, unloaded: VideoClient) -> None:
    for one in FAMILIES[family].inputs.values():
        if one.required:
            with (
                http.InferenceServerClient(tiny_server.http_url) as triton,
                refused_at_once(unloaded, InferenceServerException, one.name),
            ):
                triton.infer(family, [tensor("seed", 1)])


@pytest.mark.server
@pytest.mark.parametrize(("family", "one"), EVERY_INPUT, ids=names)
def test_a_name_that_is_mistyped_is_answered_with_the_right_one(
    family: str, one: Input, tiny_server: Server, unloaded: VideoClient
) -> None:
    mistyped = one.name[:-2] + one.name[-1] + one.name[-2]
    with refused_at_once(unloaded, InvalidValue, f"no input {mistyped}, did you mean {one.name}?"):
        unloaded.generate(family, **PROMPT, **{mistyped: 1})
    with (
        http.InferenceServerClient(tiny_server.http_url) as triton,
        refused_at_once(unloaded, InferenceServerException, mistyped),
    ):
        triton.infer(family, [*tensors(PROMPT), tensor(mistyped, 1, "INT32")])


@pytest.mark.server
def test_inputs_of_other_families_are_no_inputs(family: str, unloaded: VideoClient) -> None:
    own = FAMILIES[family].inputs
    for name in {name for spec in FAMILIES.values() for name in spec.inputs if name not in own}:
        with refused_at_once(unloaded, InvalidValue, f"{family}_stream has no input {name}"):
            unloaded.generate(family, **PROMPT, **{name: 1})


@pytest.mark.server
def test_over_plain_http_a_bad_value_is_a_bad_request(family: str, tiny_server: Server, unloaded: VideoClient) -> None:
    """A text in place of a number never reaches us: Triton itself refuses it."""
    words = "seed is -1, it must be a whole number from 0 to"
    with refused_at_once(unloaded, urllib.error.HTTPError, "400") as caught:
        post(f"{tiny_server.http_url}/v2/models/{family}/generate", PROMPT | {"seed": -1})
    assert words in json.loads(caught.value.read())["error"]
    # A stream has begun when the value is read, so that its last answer tells.
    failed, error = generate_stream(tiny_server.http_url, family, **PROMPT, seed=-1)
    assert failed["event"]["phase"] == "failed" and words in failed["event"]["error"] and words in error["error"]


@pytest.mark.server
def test_the_server_still_works_afterwards(made: Callable[..., Made], client: VideoClient) -> None:
    for family in FAMILIES:
        assert client.generate(family, **small(family)).data == made(family, **small(family)).video.data
