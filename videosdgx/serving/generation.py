"""One served generation: slot, components, sampling, file. Knows Triton only through the calls that it is given."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videosdgx.artifacts import MANIFEST, PIPELINE
from videosdgx.families import FAMILIES
from videosdgx.families.networks import Generate, Piece, Run
from videosdgx.families.request import GenerationRequest
from videosdgx.media.fragments import FragmentEncoder, whole_mp4
from videosdgx.media.video import encode_mp4, encode_png
from videosdgx.serving.clock import Clock
from videosdgx.serving.files import deliver
from videosdgx.serving.names import RELEASE, SECONDS, component_model
from videosdgx.serving.settings import Settings
from videosdgx.serving.triton import calls

POLL_SECONDS = 0.1
DEMO_NOTE = "made by a small demo checkpoint that was trained on a synthetic world"


class Generation:
    """Runs one request of one family, of which it knows the table only.

    `family_pipeline` gives the family's function that makes a clip, and its `PromptCache`. It is called only once the
    components are there: the first time it imports torch and diffusers, for seconds in which they load.
    """

    def __init__(
        self,
        settings: Settings,
        family: str,
        family_pipeline: Callable[[], tuple[Generate, Any]],
        request: GenerationRequest,
        clock: Clock,
        whole: bool = False,
    ):
        """`whole`: the client wants the file at the end only, also from a family that makes it in chunks."""
        self.settings, self.family, self.family_pipeline = settings, family, family_pipeline
        self.spec = FAMILIES[family]
        self.request, self.clock = request, clock
        self.whole = whole or request.response_format == "path"
        self.num_frames = 0
        self.transformer_seconds: list[float] = []
        self._encoder = FragmentEncoder(request.fps)
        self._fragments = bytearray()  # of a clip in chunks that is wanted as a whole
        self._pieces: list[Piece] = []  # of any other

    def run(self) -> tuple[bytes | None, dict[str, Any]]:
        """The `video` output, None if the client has had it in parts, and the metadata.

        Raises:
            Cancelled: the client is gone.
            calls.CallFailed: a component or the manager answered with an error.
            OSError: the result could not be written (`path`).
        """
        try:
            self.acquire()
            with contextlib.closing(self._made()) as pieces:
                for piece in pieces:
                    self._take(piece)
        finally:
            self._release()
        file = self._file()
        video = None if file is None else self._deliver(file)
        self.clock.phase("done")
        return video, self._metadata()

    def _made(self) -> Generator[Piece, None, None]:
        generate, prompts = self.family_pipeline()
        variant = self.settings.variant(self.family)
        networks = {name: self._network(name) for name in self.spec.components}
        pipeline = self.settings.artifact(self.family, PIPELINE)
        return generate(pipeline, variant, self.request, networks, self.clock, prompts)

    @property
    def _in_fragments(self) -> bool:
        """Whether the clip is encoded as it comes: the family makes it in chunks (it has told so), and it is no picture."""
        return self.clock.chunks > 0 and self.request.response_format != "png"

    def _take(self, piece: Piece) -> None:
        """Keep a piece; of a clip in chunks, encode it, and send it unless the whole file is wanted."""
        self.num_frames += len(piece.frames)
        if not self._in_fragments:
            self._pieces.append(piece)
            return
        self.clock.phase("muxing")
        fragment = self._encoder.encode(frames_of([piece]))
        if self.whole:
            self._fragments += fragment
        self.clock.chunk(None if self.whole else self._deliver(fragment))

    def _file(self) -> bytes | None:
        """The whole file; None if it was sent in fragments."""
        if self._in_fragments:
            return whole_mp4(bytes(self._fragments)) if self.whole else None
        if not self.clock.chunks:
            self.clock.phase("muxing")
        frames = frames_of(self._pieces)
        return encode_png(frames[0]) if self.request.response_format == "png" else encode_mp4(frames, self.request.fps)

    def _deliver(self, file: bytes) -> bytes:
        return deliver(file, self.request.response_format, self.settings.home, f"{self.family}-{self.request.seed}")

    def _release(self) -> None:
        """Give back what stateful components keep for this generation, and its slot.

        This runs however the generation ended. Where it fails, that is logged and no more: the clip, or the error that ended
        the generation, counts. A component drops by itself what nobody has used for some minutes.
        """
        for name in self.spec.stateful:
            # Not as other calls: it must not fail when the client is gone, nor load what was unloaded and so keeps nothing.
            with self._logged(f"{name} keeps what it has of it"), contextlib.suppress(calls.NotLoaded, calls.Died):
                calls.call(component_model(self.family, name), {RELEASE: calls.as_bytes(self.clock.id)}, [SECONDS])
        with self._logged("its slot stays taken"):
            calls.manager({"action": "release", "id": self.clock.id})

    @contextlib.contextmanager
    def _logged(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            print(f"{self.family}: generation {self.clock.id} is over, but {consequence}: {error}", flush=True)

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

    def _network(self, component: str) -> Run:
        model = component_model(self.family, component)
        output_names = [*(port.name for port in self.spec.component(component).outputs), SECONDS]

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = self._call(model, inputs, output_names)
            if component == "transformer":
                step = len(self.clock.step_seconds)
                self.transformer_seconds += [0.0] * (step + 1 - len(self.transformer_seconds))
                self.transformer_seconds[step] += float(outputs[SECONDS][0])
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

    def _metadata(self) -> dict[str, Any]:
        request, clock, chosen = self.request, self.clock, self.settings.families[self.family]
        seconds = {name: round(value, 4) for name, value in clock.seconds.items()}
        notes = [request.prefix.note if request.prefix else "", DEMO_NOTE if chosen.variant == "demo" else ""]
        return {
            "id": clock.id,
            "family": self.family,
            "variant": chosen.variant,
            "precision": chosen.precision,
            "target": self.settings.target,
            **request.numbers(self.spec),
            "num_frames": self.num_frames,
            **self._chunk_facts(),
            "note": "; ".join(note for note in notes if note),
            "seconds": {**seconds, "total": round(time.perf_counter() - clock.started, 4)},
            "step_seconds": [round(value, 5) for value in clock.step_seconds],
            "transformer_seconds": [round(value, 5) for value in self.transformer_seconds],
            "artifacts": {name: manifest_digest(self.settings.artifact(self.family, name)) for name in self.spec.components},
        }

    def _chunk_facts(self) -> dict[str, Any]:
        ready = [round(value, 4) for value in self.clock.chunk_seconds]
        return {"chunks": len(ready), "chunk_seconds": ready} if self.clock.chunks else {}


def frames_of(pieces: Sequence[Piece]) -> np.ndarray:
    """The frames of pieces in a row, uint8 [F,H,W,3]. Their sound is to be taken here too, as soon as files get some.

    Raises:
        NotImplementedError: a piece has sound, which nothing writes into a file yet.
    """
    if any(piece.audio is not None for piece in pieces):
        raise NotImplementedError("the clip has sound, which is not written into files yet")
    return np.concatenate([piece.frames for piece in pieces])


def manifest_digest(directory: Path) -> str:
    """SHA-256 of an artifact's manifest, which holds the digests of its files: it names the artifact exactly."""
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
