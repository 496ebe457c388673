"""Stand-ins for MAGI-1's transformer and autoencoder, which run elsewhere: in an engine of this process, or in a component.

The transformer's component (`stateful.py`) keeps keys and values by generation; what it has lost, because it was unloaded in
between, it is given again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.cache import CacheMissing
from videosdgx.families.networks import Run

# Text is sent again this often in one evaluation; more can only mean that the component loses it each time.
ATTEMPTS = 3


@dataclass(frozen=True)
class RemoteText:
    """A text that the component has the keys and values of; the features [n,C] fp32 stay here, to be sent again."""

    key: str
    features: np.ndarray


class RemoteTransformer:
    """Stands for the transformer in `sampler.py`: one call for each evaluation of a window, one for each distinct text."""

    def __init__(
        self,
        run: Run,
        config: Mapping[str, Any],
        null_caption: Tensor,
        generation: str,
        release: Callable[[], None] = lambda: None,
    ):
        """`null_caption` [caption_max_length, C] is the network's; `generation` names what it keeps for this clip.

        `release` drops what is kept, at the end of a clip. By default whoever opened the component does that
        (`StatefulEngine.release`): in serving a client may be gone or the component unloaded by then.
        """
        self.config = SimpleNamespace(**config)
        self.null_caption = null_caption
        self._run, self._generation, self._release = run, generation, release
        # Texts that somebody still needs; a long video may have many, one after another.
        self._texts: WeakValueDictionary[str, RemoteText] = WeakValueDictionary()

    def encode_text(self, encoder_hidden_states: Tensor) -> RemoteText:
        """Have keys and values made of the kept positions [n, caption_channels] fp32, unless that was done before."""
        features = np.ascontiguousarray(encoder_hidden_states.float().numpy())
        key = hashlib.sha256(features.tobytes()).hexdigest()[:24]
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = RemoteText(key, features)
            self._send_text(text)
        return text

    def evaluate(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Sequence[RemoteText],
        *,
        first_chunk: int,
        ranges: Sequence[tuple[int, int]],
        has_text: bool,
        step_size: float | None = None,
        store: bool = False,
    ) -> Tensor:
        """The velocity of consecutive chunks, as `MagiTransformer3DModel.evaluate` returns it.

        Raises:
            CacheMissing: the component does not have (or has lost) a stored chunk in range.
        """
        command = {
            "operation": "evaluate",
            "text": [one.key for one in text],
            "first_chunk": first_chunk,
            "ranges": [list(pair) for pair in ranges],
            "has_text": has_text,
            "step_size": step_size,
            "store": store,
        }
        tensors = {
            graphs.HIDDEN_STATES: hidden_states.float().contiguous().numpy(),
            graphs.TIMESTEP: timestep.float().contiguous().numpy(),
        }
        for _ in range(ATTEMPTS):
            result, outputs = self._call(command, tensors)
            if "missing_chunk" in result:
                raise CacheMissing(result["missing_chunk"])
            if "missing_text" not in result:
                return torch.from_numpy(outputs[graphs.VELOCITY])
            for one in {one.key: one for one in text if one.key in result["missing_text"]}.values():
                self._send_text(one)
        raise RuntimeError(f"the transformer lost the text of generation {self._generation} {ATTEMPTS} times in a row")

    def release(self) -> None:
        """The clip is over."""
        self._release()

    def _send_text(self, text: RemoteText) -> None:
        self._call({"operation": "encode_text", "text": text.key}, {graphs.ENCODER_HIDDEN_STATES: text.features})

    def _call(self, command: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        line = json.dumps({**command, "generation": self._generation}).encode()
        outputs = self._run({"command": np.array([line], dtype=np.object_), **tensors})
        return json.loads(outputs["result"][0]), outputs


class RemoteVAE(torch.nn.Module):
    """Stands for `AutoencoderKLMagi`, without the faults of the original."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, run: Run, config: Mapping[str, Any]):
        super().__init__()
        self.run = run
        self.config = SimpleNamespace(**config)

    def encode(self, x: Tensor) -> SimpleNamespace:
        """Latents [B,16,T,h,w] of a video [B,3,F,H,W] in [-1,1], as the `mode` of a distribution."""
        latents = torch.from_numpy(self.run({"video": x.float().contiguous().numpy()})["latents"])
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, z: Tensor) -> SimpleNamespace:
        """Video [B,3,4T,8h,8w] for latents [B,16,T,h,w] that were divided by the scaling factor."""
        return SimpleNamespace(sample=torch.from_numpy(self.run({"latents": z.float().contiguous().numpy()})["video"]))
