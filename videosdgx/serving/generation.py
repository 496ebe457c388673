"""One served generation: slot, components, sampling, file. Knows Triton only through the calls that it is given."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from videosdgx.artifacts import MANIFEST
from videosdgx.families import FAMILIES
from videosdgx.families.request import GenerationRequest
from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.video import encode_mp4, encode_png, to_uint8
from videosdgx.serving.clock import Clock
from videosdgx.serving.files import deliver
from videosdgx.serving.settings import Settings
from videosdgx.serving.triton import calls

POLL_SECONDS = 0.1
DEMO_NOTE = "made by a small demo checkpoint that was trained on a synthetic world"


class Generation:
    """Runs one request of one family.

    `family_pipeline` gives the family's module with `generate`, and its `PromptCache`. It is called only once the
    components are there: the first time it imports torch and diffusers, for seconds in which they load.
    """

    def __init__(
        self,
        settings: Settings,
        family: str,
        family_pipeline: Callable[[], tuple[ModuleType, Any]],
        request: GenerationRequest,
        clock: Clock,
        whole: bool = False,
    ):
        """`whole`: the client wants the file at the end only, also from a family that makes it in chunks."""
        self.settings, self.family, self.family_pipeline = settings, family, family_pipeline
        self.request, self.clock = request, clock
        self.whole = whole or request.response_format == "path"
        self.num_frames = 0
        self.transformer_seconds: list[float] = []

    def run(self) -> tuple[bytes | None, dict[str, Any]]:
        """The `video` output, None if the client has had it in parts, and the metadata.

        Raises:
            Cancelled: the client is gone.
            calls.CallFailed: a component or the manager answered with an error.
            OSError: the result could not be written (`path`).
        """
        chosen = self.settings.families[self.family]
        spec = FAMILIES[self.family]
        try:
            self.acquire()
            module, prompts = self.family_pipeline()
            made = module.generate(
                self.settings.artifact(self.family, "pipeline"),
                spec.variants[chosen.variant],
                self.request,
                {name: self._network(name) for name in spec.components},
                self.clock,
                prompts,
            )
            file = self._from_chunks(made) if self.request.window_size else None
        finally:
            self._forget()
            calls.manager({"action": "release", "id": self.clock.id})
        if not self.request.window_size:
            self.clock.phase("muxing")
            file = self._file(to_uint8(made))
        video = None if file is None else self._deliver(file)
        self.clock.phase("done")
        return video, self._metadata(chosen.variant, chosen.precision)

    def _file(self, frames: np.ndarray) -> bytes:
        self.num_frames = len(frames)
        return encode_png(frames[0]) if self.request.response_format == "png" else encode_mp4(frames, self.request.fps)

    def _from_chunks(self, made: Generator[np.ndarray, None, None]) -> bytes | None:
        with contextlib.closing(made):
            if self.request.response_format == "png":
                return self._file(np.concatenate(list(made)))
            return self._in_chunks(made)

    def _in_chunks(self, made: Iterator[np.ndarray]) -> bytes | None:
        """Send each chunk's fragment as soon as it is made; the whole file if the client wants that instead."""
        encoder = FragmentEncoder(self.request.fps)
        kept = bytearray()
        for frames in made:
            self.clock.phase("muxing")
            self.num_frames += len(frames)
            fragment = encoder.encode(frames)
            if self.whole:
                kept += fragment
            self.clock.chunk(None if self.whole else self._deliver(fragment))
        return whole_mp4(bytes(kept)) if self.whole else None

    def _deliver(self, file: bytes) -> bytes:
        return deliver(file, self.request.response_format, self.settings.home, f"{self.family}-{self.request.seed}")

    def _forget(self) -> dict[str, np.ndarray]:
        """Let components that keep something for this generation give it back. What is not told is freed when it idles."""
        command = as_json({"operation": "release", "generation": self.clock.id})
        for component in FAMILIES[self.family].stateful:
            with contextlib.suppress(calls.CallFailed):
                calls.call(f"{self.family}_{component}", {"command": command}, ["result"])
        return {"result": as_json({})}

    def acquire(self) -> None:
        """Wait for a slot and for the components."""
        command = {"action": "acquire", "id": self.clock.id, "family": self.family, "pid": os.getpid()}
        shown = ""
        while True:
            answer = calls.manager(command)
            if answer["state"] == "ready":
                return
            detail = f"{answer['ahead']} ahead" if answer["state"] == "queued" else ", ".join(answer["missing"])
            if detail != shown:
                self.clock.phase(answer["state"], detail)
                shown = detail
            self.clock.check()
            time.sleep(POLL_SECONDS)

    def _network(self, component: str) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        model = f"{self.family}_{component}"
        output_names = [*FAMILIES[self.family].components[component], "seconds"]

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if "command" in inputs and json.loads(inputs["command"][0])["operation"] == "release":
                # Not as other calls: it must neither fail when the client is gone, nor load what was unloaded.
                return self._forget()
            outputs = self._call(model, inputs, output_names)
            if component == "transformer":
                step = len(self.clock.step_seconds)
                self.transformer_seconds += [0.0] * (step + 1 - len(self.transformer_seconds))
                self.transformer_seconds[step] += float(outputs["seconds"][0])
            return outputs

        return run

    def _call(self, model: str, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        """Call a component; if somebody unloaded it in between, have it loaded again and repeat."""
        self.clock.check()
        for attempt in range(3):
            try:
                return calls.call(model, inputs, outputs)
            except calls.NotLoaded:
                if attempt == 2:
                    raise
                phase = self.clock.current
                self.acquire()
                self.clock.phase(phase)
            except calls.Died as error:
                raise calls.CallFailed(
                    f"component {model} died during this generation (killed, or out of memory): {error} "
                    "It is loaded again for the next request."
                ) from None
        raise AssertionError("unreachable")

    def _metadata(self, variant: str, precision: str) -> dict[str, Any]:
        request, clock = self.request, self.clock
        seconds = {name: round(value, 4) for name, value in clock.seconds.items()}
        notes = [request.prefix.note if request.prefix else "", DEMO_NOTE if variant == "demo" else ""]
        return {
            "id": clock.id,
            "family": self.family,
            "variant": variant,
            "precision": precision,
            "target": self.settings.target,
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
            "num_frames": self.num_frames,
            "fps": request.fps,
            "num_inference_steps": request.num_inference_steps,
            **self._chunk_facts(),
            "note": "; ".join(note for note in notes if note),
            "seconds": {**seconds, "total": round(time.perf_counter() - clock.started, 4)},
            "step_seconds": [round(value, 5) for value in clock.step_seconds],
            "transformer_seconds": [round(value, 5) for value in self.transformer_seconds],
            "artifacts": {
                component: manifest_digest(self.settings.artifact(self.family, component))
                for component in FAMILIES[self.family].components
            },
        }

    def _chunk_facts(self) -> dict[str, Any]:
        if not self.request.window_size:
            return {"guidance_scale": self.request.guidance_scale}
        ready = [round(value, 4) for value in self.clock.chunk_seconds]
        return {"window_size": self.request.window_size, "chunks": len(ready), "chunk_seconds": ready}


def manifest_digest(directory: Path) -> str:
    """SHA-256 of an artifact's manifest, which holds the digests of its files: it names the artifact exactly."""
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def as_json(value: dict[str, Any]) -> np.ndarray:
    """A dictionary as a BYTES tensor [1]."""
    return np.array([json.dumps(value).encode()], dtype=np.object_)
