"""MAGI-1's transformer as a component: keeps text states and a key/value cache for each generation.

It is run with a `command` (JSON) and tensors, and answers with a `result` (JSON) and perhaps a tensor:

    {"operation": "encode_text", "generation": id, "text": key} and encoder_hidden_states [n,C] -> {}
    {"operation": "evaluate", "generation": id, "text": [key for each chunk], "first_chunk": .., "ranges": [[first, end], ..],
     "has_text": .., "step_size": .. or null, "store": ..}, hidden_states and timestep
        -> velocity and {}, or, when this process knows too little, {"missing_text": [keys]} or {"missing_chunk": index}

The meaning of `evaluate` is that of `MagiTransformer3DModel.evaluate`: the same loop over the window's chunks, with the chunk
graph in place of `forward_chunk` and its output bound to its place in the cache. A process that was started anew in the
middle of a generation says what is missing, and the caller gives it again.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videosdgx import memory
from videosdgx.artifacts import Manifest
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.engine.chunk_engine import ChunkEngine
from videosdgx.families.magi1.network.cache import CacheMissing, KeyValueCache
from videosdgx.families.magi1.network.rotary import token_positions

# The key ranges need five chunks, counting those of the window (docs/specs/magi1.md, section 4.1).
SLOTS = 5
# The texts of a window's chunks, the null text, and one more; an older one is asked for again.
TEXTS = 6
PATCH = 2
IDLE_SECONDS = 600.0
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class GenerationState:
    """What is kept of one generation: keys and values of its texts and of its chunks."""

    texts: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    cache: KeyValueCache | None = None
    used: float = field(default_factory=time.monotonic)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(text.nbytes for text in self.texts.values()) + (self.cache.nbytes if self.cache else 0)


class StatefulTransformer:
    """The component. One command at a time; the limits keep forgotten generations from filling the memory."""

    def __init__(
        self,
        engine: ChunkEngine,
        manifest: Manifest,
        most_generations: int = 4,
        most_bytes: int | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """`most_bytes` bounds all states together; by default it is half of the system's memory."""
        self.manifest = manifest
        self._engine = engine
        self._most_generations, self._idle_seconds = most_generations, idle_seconds
        self._most_bytes = memory.total() // 2 if most_bytes is None else most_bytes
        (text_kv,) = [spec for spec in manifest.inputs if spec.name == graphs.TEXT_KV]
        self._dtype = DTYPES[text_kv.dtype]
        self._layers, _, self._groups, self._width = (axis if isinstance(axis, int) else 0 for axis in text_kv.shape)
        self._generations: dict[str, GenerationState] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._told: dict[str, int] = {}
        # Is told the facts whenever they change.
        self.on_change: Callable[[dict[str, int]], None] = lambda facts: None
        threading.Thread(target=self._free_idle_ones, daemon=True).start()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Carry out one command.

        Raises:
            ValueError: the command cannot be understood, or a limit is reached.
        """
        command = json.loads(inputs["command"][0])
        with self._lock, torch.inference_mode(), self._engine.context():
            try:
                return self._carry_out(command, inputs)
            finally:
                self._tell()

    def _carry_out(self, command: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        operation = command["operation"]
        if operation == "evaluate":
            return self._evaluate(command, inputs[graphs.HIDDEN_STATES], inputs[graphs.TIMESTEP])
        if operation == "encode_text":
            self._encode_text(command, inputs[graphs.ENCODER_HIDDEN_STATES])
            return {"result": _json({})}
        raise ValueError(f"operation is {operation!r}, it must be encode_text or evaluate")

    def _tell(self) -> None:
        facts = self.facts()
        if facts != self._told:
            self._told = facts
            self.on_change(facts)

    def facts(self) -> dict[str, int]:
        """How many generations are kept, and in how many bytes."""
        states = list(self._generations.values())
        return {"generations": len(states), "state_bytes": sum(state.nbytes for state in states)}

    def release(self, generation: str) -> None:
        """Drop what is kept for a generation; nothing happens if there is nothing."""
        with self._lock:
            self._generations.pop(generation, None)
            self._tell()

    def close(self) -> None:
        """Give the memory back."""
        self._closed.set()
        with self._lock:
            self._generations.clear()
            self._engine.close()

    def _free_idle_ones(self) -> None:
        while not self._closed.wait(min(30.0, self._idle_seconds / 2)):
            with self._lock:
                self._drop_idle()
                self._tell()

    def _drop_idle(self) -> None:
        oldest = time.monotonic() - self._idle_seconds
        for key in [key for key, state in self._generations.items() if state.used < oldest]:
            del self._generations[key]

    def _state(self, generation: str) -> GenerationState:
        if generation not in self._generations:
            self._drop_idle()
            if len(self._generations) >= self._most_generations:
                raise ValueError(
                    f"{len(self._generations)} generations have keys and values here, at most {self._most_generations} can: "
                    f"wait for one to end, or {self._idle_seconds:g} s until one that was abandoned is dropped"
                )
            self._generations[generation] = GenerationState()
        state = self._generations[generation]
        state.used = time.monotonic()
        return state

    def _refuse_too_much(self, more: int) -> None:
        held = sum(state.nbytes for state in self._generations.values())
        if held + more > self._most_bytes:
            raise ValueError(
                f"keys and values of this generation take {more >> 20} MB, others hold {held >> 20} MB, at most "
                f"{self._most_bytes >> 20} MB are allowed: ask for a smaller width and height, or wait for another to end"
            )

    def _encode_text(self, command: Mapping[str, Any], features: np.ndarray) -> None:
        state, key = self._state(command["generation"]), command["text"]
        shape = (self._layers, len(features), self._groups, self._width)
        self._refuse_too_much(int(np.prod(shape)) * self._dtype.itemsize)
        text_kv = torch.empty(shape, dtype=self._dtype, device=self._engine.device)
        self._engine.encode_text(_tensor(features, self._engine.device), text_kv)
        state.texts[key] = text_kv
        while len(state.texts) > TEXTS:
            state.texts.popitem(last=False)

    def _evaluate(self, command: Mapping[str, Any], latents: np.ndarray, timestep: np.ndarray) -> dict[str, np.ndarray]:
        state, keys = self._state(command["generation"]), command["text"]
        missing = [key for key in dict.fromkeys(keys) if key not in state.texts]
        if missing:
            return {"result": _json({"missing_text": missing})}
        for key in keys:
            state.texts.move_to_end(key)
        first_chunk, ranges = command["first_chunk"], command["ranges"]
        chunks = len(ranges)
        if not chunks == len(keys) == len(timestep) or latents.shape[2] % chunks:
            raise ValueError(f"{chunks} ranges, {len(keys)} texts, {len(timestep)} times and {latents.shape[2]} frames given")
        for chunk, (first, end) in enumerate(ranges, first_chunk):
            if end != chunk + 1 or not 0 <= first < end:
                raise ValueError(f"chunk {chunk} cannot see chunks {first} to {end} (excluded)")
        _, _, frames, height, width = latents.shape
        tokens = (frames // chunks) * (height // PATCH) * (width // PATCH)
        cache = self._cache(state, tokens)
        try:
            for first, _ in ranges:
                cache.check(first, first_chunk)
        except CacheMissing as error:
            return {"result": _json({"missing_chunk": error.chunk})}
        cache.make_room(min(first for first, _ in ranges), first_chunk + chunks)
        velocity = self._window(command, latents, timestep, [state.texts[key] for key in keys], cache)
        state.used = time.monotonic()
        return {"result": _json({}), graphs.VELOCITY: velocity}

    def _cache(self, state: GenerationState, tokens: int) -> KeyValueCache:
        if state.cache is None:
            layers, groups, width = self._layers, self._groups, self._width
            self._refuse_too_much(layers * SLOTS * tokens * groups * width * self._dtype.itemsize)
            state.cache = KeyValueCache(layers, SLOTS, tokens, groups, width // 2, self._dtype, self._engine.device)
        if state.cache.tokens != tokens:
            raise ValueError(f"a chunk has {tokens} tokens, the earlier ones of this generation had {state.cache.tokens}")
        return state.cache

    def _window(
        self,
        command: Mapping[str, Any],
        latents: np.ndarray,
        timestep: np.ndarray,
        texts: list[Tensor],
        cache: KeyValueCache,
    ) -> np.ndarray:
        """Velocity fp32 [1,C,T,h,w], one chunk after another."""
        device = self._engine.device
        times = _tensor(timestep, device)
        flag = torch.tensor([command["has_text"]], device=device)
        velocities = []
        for index, part in enumerate(np.split(latents, len(texts), axis=2)):
            chunk = command["first_chunk"] + index
            first, _ = command["ranges"][index]
            frames, height, width = part.shape[2:]
            inputs = {
                graphs.HIDDEN_STATES: _tensor(part, device),
                graphs.TIMESTEP: times[index : index + 1],
                graphs.HAS_TEXT: flag,
                graphs.POSITIONS: token_positions(chunk * frames, frames, height // PATCH, width // PATCH, device),
                graphs.TEXT_KV: texts[index],
            }
            if command["step_size"] is not None:
                inputs[graphs.STEP_SIZE] = torch.tensor([command["step_size"]], dtype=torch.float32, device=device)
            inputs |= {graphs.past_input(layer): past for layer, past in enumerate(cache.past(first, chunk))}
            velocity = torch.empty(part.shape, dtype=torch.float32, device=device)
            own = cache.past(chunk, chunk + 1)
            outputs = {graphs.present_output(layer): place for layer, place in enumerate(own)}
            self._engine.forward_chunk(inputs, {**outputs, graphs.VELOCITY: velocity})
            cache.keep(chunk, command["store"])
            velocities.append(velocity)
        return torch.cat(velocities, dim=2).cpu().numpy()


def open_transformer(directory: Path, manifest: Manifest) -> StatefulTransformer:
    """The component of an artifact that has been verified against `manifest`."""
    from videosdgx.families.magi1.engine.chunk_engine import open_chunk_engine

    return StatefulTransformer(open_chunk_engine(directory, manifest), manifest)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)


def _json(value: dict[str, Any]) -> np.ndarray:
    return np.array([json.dumps(value).encode()], dtype=np.object_)
