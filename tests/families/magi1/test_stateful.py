"""The transformer's component equals the network with its cache, says what it lacks, and gives everything back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families.magi1.chunk_artifact import write_chunk_artifact
from tests.families.magi1.tiny import tiny_transformer
from videosdgx.artifacts import verify
from videosdgx.families.magi1.engine.chunk_engine import open_chunk_engine
from videosdgx.families.magi1.engine.stateful import StatefulTransformer, open_transformer

FRAMES, HEIGHT, WIDTH = 2, 4, 6
MODEL = tiny_transformer()
TEXTS = {name: torch.randn(count, 24, generator=torch.Generator().manual_seed(count)) for name, count in (("a", 3), ("b", 7))}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artifact")
    write_chunk_artifact(directory, MODEL, FRAMES, HEIGHT, WIDTH)
    return directory


@pytest.fixture
def component(artifact: Path) -> Iterator[StatefulTransformer]:
    opened = open_transformer(artifact, verify(artifact))
    yield opened
    opened.close()


def limited(artifact: Path, **limits: Any) -> StatefulTransformer:
    manifest = verify(artifact)
    return StatefulTransformer(open_chunk_engine(artifact, manifest), manifest, **limits)


def call(component: StatefulTransformer, operation: str, generation: str = "g", **given: Any) -> dict[str, Any]:
    tensors = {name: value.numpy() for name, value in given.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in given.items() if name not in tensors}
    command = json.dumps({"operation": operation, "generation": generation, **plain}).encode()
    outputs = component.run({"command": np.array([command], np.object_), **tensors})
    return {**json.loads(outputs.pop("result")[0]), **outputs}


def send_texts(component: StatefulTransformer, generation: str = "g") -> None:
    for key, features in TEXTS.items():
        assert call(component, "encode_text", generation, text=key, encoder_hidden_states=features) == {}


def window(first: int, chunks: int, ranges: list[tuple[int, int]], **more: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(first)
    return {
        "hidden_states": torch.randn(1, 4, FRAMES * chunks, HEIGHT, WIDTH, generator=generator),
        "timestep": torch.rand(chunks, generator=generator),
        "text": ["a", "b", "a"][:chunks],
        "first_chunk": first,
        "ranges": ranges,
        "has_text": True,
        "step_size": None,
        "store": False,
    } | more


# A clip: two chunks are stored, and windows that read one of them, the second moved so far that the first chunk leaves.
WINDOWS = [
    window(0, 1, [(0, 1)], store=True, has_text=False),
    window(1, 3, [(0, 2), (0, 3), (1, 4)]),
    window(1, 1, [(1, 2)], store=True),
    window(2, 3, [(1, 3), (1, 4), (1, 5)]),
    window(5, 1, [(5, 6)], store=True),
    window(6, 3, [(5, 7), (5, 8), (6, 9)]),
]


def test_windows_equal_those_of_the_network(component: StatefulTransformer) -> None:
    send_texts(component)
    cache = MODEL.new_cache(HEIGHT, WIDTH, chunk_width=FRAMES)
    for given in WINDOWS:
        velocity = call(component, "evaluate", **given)["velocity"]
        known = {name: given[name] for name in ("first_chunk", "ranges", "has_text", "store", "step_size")}
        texts = [MODEL.encode_text(TEXTS[key]) for key in given["text"]]
        expected = MODEL.evaluate(given["hidden_states"], given["timestep"], texts, cache=cache, **known)
        assert np.abs(velocity - expected.numpy()).max() < 2e-4


def test_what_a_new_process_lacks_is_said_and_then_the_result_is_the_same(
    component: StatefulTransformer, artifact: Path
) -> None:
    send_texts(component)
    expected = [call(component, "evaluate", **given)["velocity"] for given in WINDOWS[:2]][1]
    anew = limited(artifact)
    assert call(anew, "evaluate", **WINDOWS[1]) == {"missing_text": ["a", "b"]}
    send_texts(anew)
    assert call(anew, "evaluate", **WINDOWS[1]) == {"missing_chunk": 0}
    call(anew, "evaluate", **WINDOWS[0])
    assert np.array_equal(call(anew, "evaluate", **WINDOWS[1])["velocity"], expected)


def test_generations_do_not_mix_and_leave_nothing_behind(component: StatefulTransformer) -> None:
    for generation in ("g", "h"):
        send_texts(component, generation)
    call(component, "evaluate", "g", **WINDOWS[0])
    assert call(component, "evaluate", "h", **WINDOWS[1]) == {"missing_chunk": 0}
    held = component.facts()
    assert held["generations"] == 2 and held["state_bytes"] > 2 * 5 * 2 * 12 * 2 * 32 * 4
    component.release("g")
    component.release("g")
    assert component.facts()["generations"] == 1
    component.release("h")
    assert component.facts() == {"generations": 0, "state_bytes": 0}


def test_memory_does_not_grow_with_the_chunks_or_the_texts(component: StatefulTransformer) -> None:
    send_texts(component)
    call(component, "evaluate", **WINDOWS[0])
    before = component.facts()["state_bytes"]
    for chunk in range(1, 30):
        call(component, "evaluate", **window(chunk, 1, [(chunk - 1, chunk + 1)], store=True))
    assert component.facts()["state_bytes"] == before
    for number in range(30):
        call(component, "encode_text", text=f"text {number}", encoder_hidden_states=TEXTS["b"])
    full = component.facts()["state_bytes"]
    call(component, "encode_text", text="one more", encoder_hidden_states=TEXTS["b"])
    assert component.facts()["state_bytes"] == full


def test_limits_name_what_is_held_and_what_is_allowed(artifact: Path) -> None:
    few = limited(artifact, most_generations=1)
    send_texts(few)
    with pytest.raises(ValueError, match="1 generations have keys and values here, at most 1 can"):
        call(few, "encode_text", "another", text="a", encoder_hidden_states=TEXTS["a"])
    small = limited(artifact, most_bytes=20_000)
    send_texts(small)
    with pytest.raises(ValueError, match="smaller width and height"):
        call(small, "evaluate", **WINDOWS[0])


def test_an_abandoned_generation_is_dropped(artifact: Path) -> None:
    component = limited(artifact, idle_seconds=0.2)
    send_texts(component)
    deadline = time.monotonic() + 5
    while component.facts()["generations"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert component.facts() == {"generations": 0, "state_bytes": 0}
    component.close()


def test_a_window_that_makes_no_sense_is_refused(component: StatefulTransformer) -> None:
    send_texts(component)
    with pytest.raises(ValueError, match=r"chunk 1 cannot see chunks 1 to 3"):
        call(component, "evaluate", **(WINDOWS[0] | {"first_chunk": 1, "ranges": [(1, 3)]}))
    with pytest.raises(ValueError, match="2 ranges, 1 texts, 1 times"):
        call(component, "evaluate", **(WINDOWS[0] | {"ranges": [(0, 1), (0, 2)]}))
    for operation in ("think", "release"):
        with pytest.raises(ValueError, match=f"operation is '{operation}', it must be encode_text or evaluate"):
            call(component, operation)
