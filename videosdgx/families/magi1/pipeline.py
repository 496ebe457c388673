"""MAGI-1's pipeline: text, an image or a video to a video of any length, chunk by chunk.

Where the original does something that nobody asks for, `reference_behaviour=True` does it too:

| original | here by default |
|---|---|
| whole chunks come out, with an image one more: 96 frames become 120 | as many frames as were asked for |
| of a video the first 32 frames are read, whatever its length | all of it, any whole number of frames |
| the clip has the frames after the video only, `num_frames` counts those | the clip begins with the video, which counts |
| 16 frames after 32 of a video are decoded to 13 | they are 16 |
| the last update moves the latents of image and video too | the image, and the frames of the video, are as they were given |
| noise of the whole clip is drawn at once | chunk by chunk, as memory must not grow with the length |
| colours: fractions are cut off | they are rounded |

In both ways a step count that the window or the key ranges do not divide is an error (the original then never finishes), and
so is a video that leaves nothing to generate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from videosdgx.families.magi1.network.pixels import pixels_to_video, video_to_pixels
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.sampling.guidance import guidance_of
from videosdgx.families.magi1.sampling.sampler import ChunkSampler, Conditions, Done, LocalTransformer, whole_chunks
from videosdgx.families.magi1.sampling.schedule import CHUNK_WIDTH, DEFAULT_SHORTCUT, ChunkSchedule
from videosdgx.families.magi1.sampling.start import FRAMES_PER_LATENT, Source, Start, start_of
from videosdgx.families.magi1.sampling.text import (
    SpecialTokenOptions,
    TextConditioning,
    encode_prompt,
    prompt_of_chunk,
    split_then,
)
from videosdgx.families.request import InvalidInput

PIXELS_PER_LATENT = 8
SMALLEST_SIDE, SIDE_STEP = 32, 16


@dataclass
class MagiPipelineOutput(BaseOutput):
    """`frames`: one clip, float32 [1,F,H,W,3] in [0,1], or a list with the list of its pictures."""

    frames: Any


class MagiPipeline(DiffusionPipeline):
    """MAGI-1, base and distilled.

    Args:
        tokenizer, text_encoder: T5's.
        transformer: `MagiTransformer3DModel`, or what stands for one that runs elsewhere (`MagiTransformer` in `sampler.py`,
            with its `config` and its `null_caption` [caption_max_length, caption_channels]).
        vae: `AutoencoderKLMagi`.
        special_tokens: `MagiSpecialTokens`; None for a network that was trained without.
        split_prompts: whether "then" in a prompt begins another one, see `split_then`. For networks whose prompts are that
            plain; in ordinary language "then" joins more than single words.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["special_tokens"]  # noqa: RUF012  (diffusers' name and type)

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        transformer: Any,
        vae: Any,
        special_tokens: Any = None,
        split_prompts: bool = False,
    ):
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, vae=vae, special_tokens=special_tokens
        )
        self.register_to_config(split_prompts=split_prompts)

    def __call__(self, prompt: str | Sequence[str], output_type: str = "np", **options: Any) -> MagiPipelineOutput:
        """The whole clip at once; arguments as for `stream`. `output_type`: "np" or "pil"."""
        if output_type not in ("np", "pil"):
            raise ValueError(f"output_type is {output_type!r}, it must be 'np' or 'pil'")
        frames = np.concatenate(list(self.stream(prompt, **options)))
        if output_type == "pil":
            return MagiPipelineOutput(frames=[[Image.fromarray(frame) for frame in frames]])
        return MagiPipelineOutput(frames=frames[None].astype(np.float32) / 255)

    def stream(
        self,
        prompt: str | Sequence[str],
        image: Source | None = None,
        video: Source | None = None,
        height: int = 720,
        width: int = 720,
        num_frames: int = 96,
        num_inference_steps: int = 64,
        window_size: int = 4,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        special_token_options: SpecialTokenOptions | None = None,
        shortcut_mode: str = DEFAULT_SHORTCUT,
        reference_behaviour: bool = False,
        prompt_features: Callable[[str], Tensor] | None = None,
        on_schedule: Callable[[ChunkSchedule], None] | None = None,
        callback_on_step_end: Callable[["MagiPipeline", int, Done, dict[str, Any]], Any] | None = None,
    ) -> Iterator[np.ndarray]:
        """Yield the frames of each generated chunk, uint8 [F,H,W,3], as soon as it is clean; a video comes with the first.

        Args:
            prompt: what the clip shows. A list has one for each part; the parts share the generated chunks evenly.
            image: the first frame: a file's bytes or path, a picture of PIL's, or uint8 [H,W,3]. It is scaled to the size
                without keeping its aspect.
            video: the beginning of the clip, shorter than `num_frames`: a file's bytes or path (it is brought to 24 frames/s),
                a list of pictures, or uint8 [F,H,W,3] at 24 frames/s. The network sees its last 96 frames.
            height: pixels, a multiple of 16, at least 32.
            width: likewise.
            num_frames: length of the clip at 24 frames/s, the video included.
            num_inference_steps: updates that each chunk gets; a multiple of `window_size` and of 4.
            window_size: chunks in work at once.
            generator: where noise comes from.
            latents: noise [1,C,T,h,w] instead, T at least that of the clip's chunks.
            special_token_options: which special tokens are put before the prompt.
            shortcut_mode: of the 12-step grid, see `time_grid`.
            reference_behaviour: see the top of the file.
            prompt_features: gives features [n,C] of a prompt, if they are not to be made by the text encoder.
            on_schedule: is told the schedule before the first update.
            callback_on_step_end: is called after each update with its number; an exception from it ends the generation, and
                the transformer's keys and values are freed.

        Raises:
            ValueError: sizes, lengths or steps that do not fit, or both an image and a video.
        """
        for name, side in (("height", height), ("width", width)):
            if side % SIDE_STEP or side < SMALLEST_SIDE:
                raise ValueError(f"{name} is {side}, it must be a multiple of {SIDE_STEP} and at least {SMALLEST_SIDE}")
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}, it must be at least 1")
        start = start_of(image, video, height, width, num_frames, reference_behaviour)
        prefix = self._encode(start, reference_behaviour)
        if reference_behaviour:
            total = num_frames // FRAMES_PER_LATENT + start.latent_frames
        else:
            total = start.num_latent_frames(num_frames)
        chunks = -(-total // CHUNK_WIDTH)
        schedule = ChunkSchedule(num_inference_steps, window_size, chunks, whole_chunks(prefix), shortcut_mode)
        conditions = Conditions(
            self._text(prompt, schedule, special_token_options, prompt_features),
            self._conditioning(special_token_options).null(),
            self._noise(schedule, height, width, generator, latents, reference_behaviour),
            prefix,
        )
        if on_schedule is not None:
            on_schedule(schedule)

        def on_update(done: Done) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, done.update.number, done, {})

        sampler = ChunkSampler(
            LocalTransformer(self.transformer, schedule.slots) if self._is_local else self.transformer,
            schedule,
            conditions,
            guidance_of(self.transformer.config),
            reference_behaviour=reference_behaviour,
            on_update=on_update,
        )
        left = num_frames
        for chunk, clean in sampler.run():
            if reference_behaviour:
                # The frame of an image comes out, those of a video do not.
                dropped = max(0, start.latent_frames - chunk * CHUNK_WIDTH) if image is None else 0
                yield self._decode(clean[:, :, dropped:], reference_behaviour)
            else:
                frames = start.put(chunk, self._decode(clean), first=chunk == schedule.first_chunk)[:left]
                left -= len(frames)
                yield frames

    @property
    def _is_local(self) -> bool:
        return isinstance(self.transformer, MagiTransformer3DModel)

    def _decode(self, latents: Tensor, reference_behaviour: bool = False) -> np.ndarray:
        """Frames uint8 [4T,H,W,3] of latents [1,C,T,h,w], on their own."""
        options = {"reference_behaviour": True} if reference_behaviour else {}
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
        with torch.no_grad():
            video = self.vae.decode(scaled, **options).sample
        return video_to_pixels(video, reference_behaviour).cpu().numpy()

    def _encode(self, start: Start, reference_behaviour: bool) -> Tensor | None:
        """Latents [1,C,P,h,w], scaled, in the autoencoder's dtype; None if the clip starts from text only."""
        if not len(start.seen):
            return None
        options = {"reference_behaviour": True} if reference_behaviour else {}
        pixels = pixels_to_video(torch.from_numpy(np.ascontiguousarray(start.seen))).to(self.vae.device, self.vae.dtype)
        with torch.no_grad():
            latents: Tensor = self.vae.encode(pixels, **options).latent_dist.mode() * self.vae.config.scaling_factor
        return latents.cpu()

    def _conditioning(self, options: SpecialTokenOptions | None) -> TextConditioning:
        transformer = self.transformer
        table = transformer.y_embedder.null_caption_embedding.detach() if self._is_local else transformer.null_caption
        return TextConditioning(table.float().cpu(), self.special_tokens, options or SpecialTokenOptions())

    def _text(
        self,
        prompt: str | Sequence[str],
        schedule: ChunkSchedule,
        options: SpecialTokenOptions | None,
        prompt_features: Callable[[str], Tensor] | None,
    ) -> Callable[[int], Tensor]:
        """The text of each generated chunk; every prompt is encoded once, here."""
        text = self._conditioning(options)
        first, count = schedule.first_chunk, schedule.num_chunks - schedule.first_chunk
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if isinstance(prompt, str) and self.config.split_prompts:
            prompts = split_then(prompt)
        if not 1 <= len(prompts) <= count:
            raise InvalidInput(f"prompt has {len(prompts)} parts, it must have 1 to {count}, the chunks to be generated")
        wanted = [prompt_of_chunk(prompts, index, count) for index in range(count)]

        def encode(one: str) -> Tensor:
            if prompt_features is not None:
                return prompt_features(one)
            return encode_prompt(one, self.tokenizer, self.text_encoder, text.max_length)

        features = {one: encode(one) for one in dict.fromkeys(wanted)}
        return lambda chunk: text.of_chunk(features[wanted[chunk - first]], schedule.num_chunks - chunk)

    def _noise(
        self,
        schedule: ChunkSchedule,
        height: int,
        width: int,
        generator: torch.Generator | None,
        latents: Tensor | None,
        reference_behaviour: bool,
    ) -> Callable[[int], Tensor]:
        """What each chunk starts from, [1,C,6,h,w] fp32."""
        sides = height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
        channels, frames = self.vae.config.latent_channels, schedule.num_chunks * CHUNK_WIDTH
        if latents is None and reference_behaviour:
            latents = torch.randn(1, channels, frames, *sides, generator=generator)
        if latents is None:
            return lambda chunk: torch.randn(1, channels, CHUNK_WIDTH, *sides, generator=generator)
        if latents.shape[2] < frames or latents.shape != (1, channels, latents.shape[2], *sides):
            raise ValueError(
                f"latents are {list(latents.shape)}, they must be [1, {channels}, {frames} or more, {sides[0]}, {sides[1]}]"
            )
        return lambda chunk: latents[:, :, chunk * CHUNK_WIDTH : (chunk + 1) * CHUNK_WIDTH]
