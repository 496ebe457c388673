"""What serving calls gives the same clip as the pipeline in this process."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.families.magi1.chunk_artifact import write_chunk_artifact
from tests.families.magi1.tiny import tiny_pipeline
from videosdgx.artifacts import verify
from videosdgx.families.magi1.engine.stateful import StatefulTransformer, open_transformer
from videosdgx.families.magi1.generate import NULL_CAPTION, NULL_CAPTION_FILE, generate
from videosdgx.families.magi1.spec import DEMO
from videosdgx.families.networks import Run
from videosdgx.families.prompts import PromptCache
from videosdgx.families.request import GenerationRequest
from videosdgx.media.prefix import Prefix

PIPELINE = tiny_pipeline(split_prompts=True)


class Noted:
    """Progress, written down."""

    id = "g"

    def __init__(self, at_step: Callable[[int], None] = lambda step: None):
        self.events: list[object] = []
        self.at_step = at_step

    def plan(self, steps: int, chunks: int) -> None:
        self.events.append((steps, chunks))

    def phase(self, name: str) -> None:
        self.events.append(name)

    def step(self, step: int) -> None:
        self.events.append(step)
        self.at_step(step)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weightless part, and the transformer's graphs in `engine`."""
    directory = tmp_path_factory.mktemp("pipeline")
    PIPELINE.tokenizer.save_pretrained(directory / "tokenizer")
    PIPELINE.transformer.save_config(directory / "transformer")
    PIPELINE.vae.save_config(directory / "vae")
    PIPELINE.special_tokens.save_pretrained(directory / "special_tokens")
    null_caption = PIPELINE.transformer.y_embedder.null_caption_embedding.detach().contiguous()
    save_file({NULL_CAPTION: null_caption}, directory / "transformer" / NULL_CAPTION_FILE)
    (directory / "engine").mkdir()
    write_chunk_artifact(directory / "engine", PIPELINE.transformer, 6, 4, 4)
    return directory


def text_encoder(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    ids, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        return {"last_hidden_state": PIPELINE.text_encoder(ids, mask).last_hidden_state.numpy()}


def vae(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        if "latents" in inputs:
            return {"video": PIPELINE.vae.decode(torch.from_numpy(inputs["latents"])).sample.numpy()}
        return {"latents": PIPELINE.vae.encode(torch.from_numpy(inputs["video"])).latent_dist.mode().numpy()}


def request(prefix: Prefix | None = None) -> GenerationRequest:
    return GenerationRequest(
        prompt="a red circle moving right then up",
        negative_prompt="",
        width=32,
        height=32,
        num_frames=60,
        fps=24,
        seed=5,
        num_inference_steps=4,
        guidance_scale=1.0,
        response_format="mp4",
        window_size=4,
        start="video" if prefix else None,
        prefix=prefix,
    )


def networks(component: StatefulTransformer) -> dict[str, Run]:
    return {"text_encoder": text_encoder, "transformer": component.run, "vae": vae}


def test_served_and_in_process_are_the_same_clip(artifact: Path) -> None:
    component = open_transformer(artifact / "engine", verify(artifact / "engine"))
    film = np.random.default_rng(2).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    for prefix in (None, Prefix(film, "")):
        noted, prompts = Noted(), PromptCache()
        pieces = list(generate(artifact, DEMO, request(prefix), networks(component), noted, prompts))
        assert all(piece.audio is None and piece.frames.dtype == np.uint8 for piece in pieces)
        served = [piece.frames for piece in pieces]
        here = list(
            PIPELINE.stream(
                "a red circle moving right then up",
                video=None if prefix is None else prefix.frames,
                height=32,
                width=32,
                num_frames=60,
                num_inference_steps=4,
                generator=torch.Generator().manual_seed(5),
            )
        )
        assert [len(chunk) for chunk in served] == [len(chunk) for chunk in here] and sum(map(len, served)) == 60
        difference = np.abs(np.concatenate(served).astype(int) - np.concatenate(here).astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
        sampled = ["sampling", 5, "decoding", "sampling", 6, "decoding"]
        assert noted.events == ["encoding", (6, 3), "sampling", 1, 2, 3, 4, "decoding", *sampled]
        # Whoever opened the component releases what it keeps: in serving, when the generation is over.
        assert component.facts()["generations"] == 1
        component.release("g")
        assert component.facts() == {"generations": 0, "state_bytes": 0}
    component.close()


def test_what_was_kept_is_released_after_cancelling_too(artifact: Path) -> None:
    component = open_transformer(artifact / "engine", verify(artifact / "engine"))

    def cancel(step: int) -> None:
        assert component.facts()["generations"] == 1
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(generate(artifact, DEMO, request(), networks(component), Noted(cancel), PromptCache()))
    component.release("g")
    assert component.facts() == {"generations": 0, "state_bytes": 0}
    component.close()
