"""What the export of Wan 2.1's video decoder has of its own: two plans, which decode without PyTorch's fp32 modules."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from export.check.accuracy import psnr_db
from export.checkpoint.source import Network
from export.families.wan21.vae_graph import cache_shapes, skeleton
from export.families.wan21.vae_lowered import HISTORY, LoweredVaeDecoder, Step, VaeConfig, decoder_tensors
from export.graph import weights, writing
from export.graph.lowering import Build
from export.graph.writing import GraphFiles
from export.quantize.linears import Dtypes
from export.run import progress
from export.run.errors import ExportError
from export.run.job import Job
from export.run.recipe import EngineFiles, Policy, Recipe
from videosdgx.artifacts import Profile, TensorSpec
from videosdgx.families.wan21.spec import SPEC
from videosdgx.families.wan21.vae_engine import FIRST_PLAN, NEXT_PLAN
from videosdgx.families.wan21.vae_loop import LATENT, SPATIAL, Tiling, cache_input

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LEAST_SIDE = 16  # pixels; what is left of a frame at its edge may be as small
# The first latent frame's graph, and that of each frame that follows.
FIRST, FOLLOWING = (
    GraphFiles(f"{name}.onnx", f"{name}.onnx.data", f"{name}-engine.onnx", f"{name}-written.txt") for name in ("first", "next")
)


def decodes(name: str) -> bool:
    """Whether a tensor of the VAE is of the decoder."""
    return not name.startswith(("encoder.", "quant_conv."))


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the decoder with this config.json."""
    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(dict(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if decodes(name)}


def published(variant: str) -> dict[str, Any]:
    """The config.json of every published variant: diffusers' defaults."""
    with torch.device("meta"):
        model = AutoencoderKLWan()
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


NETWORK = Network(config=VaeConfig.from_dict, shapes=shapes, published=published, wanted=decodes)


def profiles(config: VaeConfig, whole: Sequence[tuple[int, int]]) -> list[Profile]:
    """A profile for tiles and one for each of the `whole` sizes (height, width); of the latent only, see `with_cache`."""

    def latent(height: int, width: int) -> dict[str, list[int]]:
        return {LATENT: [1, config.z_dim, 1, height // SPATIAL, width // SPATIAL]}

    tile = Tiling().size
    made = []
    for height, width in dict.fromkeys([(tile, tile), *whole]):
        largest = latent(height, width)
        made.append(Profile(name=f"{width}x{height}", min=latent(LEAST_SIDE, LEAST_SIDE), opt=largest, max=largest))
    return made


def with_cache(profile: Profile, shapes: Sequence[tuple[int, int]]) -> Profile:
    """The same profile with the shapes of the cache, whose tensors have these (channels, scale)."""

    def extended(given: Mapping[str, list[int]]) -> dict[str, list[int]]:
        batch, _, _, height, width = given[LATENT]
        cache = {cache_input(i): [batch, c, HISTORY, s * height, s * width] for i, (c, s) in enumerate(shapes)}
        return {LATENT: given[LATENT], **cache}

    return Profile(name=profile.name, min=extended(profile.min), opt=extended(profile.opt), max=extended(profile.max))


def buffer_bytes(profile: Profile, shapes: Sequence[tuple[int, int]]) -> int:
    """What the second plan's inputs and outputs take at the profile's largest: the cache twice (16 bit), frames in fp32."""
    largest = with_cache(profile, shapes).max
    cache = 2 * sum(prod(shape) for name, shape in largest.items() if name != LATENT)
    height, width = (SPATIAL * side for side in largest[LATENT][3:])
    return 2 * cache + 4 * prod(largest[LATENT]) + 4 * 3 * 4 * height * width


@torch.inference_mode()
def accuracy(config: VaeConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    """PSNR in dB of three latent frames of noise decoded with everything rounded to `dtype`, against fp32, in PyTorch.

    Noise is harder than a picture: it is the same at all frequencies.
    """
    latents = torch.randn(3, 1, config.z_dim, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    clips = []
    for precision in (torch.float32, dtype):
        frames, cache = [], None
        for index, latent in enumerate(latents):
            with torch.device("meta"):
                module = LoweredVaeDecoder(config, Step(index == 0, precision, emulated=True))
            held = decoder_tensors(tensors, index == 0)
            wanted = {name: parameter.dtype for name, parameter in module.named_parameters()}
            module.load_state_dict({name: held[name].to(own) for name, own in wanted.items()}, assign=True)
            made, *cache = module(latent, cache)
            frames.append(made)
        clips.append((torch.cat(frames, 2).clamp(-1, 1) / 2 + 0.5).numpy())
    value = psnr_db(clips[1], clips[0])
    return {"noise_psnr_db": float(f"{value:.4g}")}


def _whole(job: Job) -> list[tuple[int, int]]:
    """(height, width) in pixels of the frames that are to be decoded without tiles.

    Raises:
        ExportError: one of them cannot be.
    """
    for width, height in job.settings.resolutions:
        if height % LEAST_SIDE or width % LEAST_SIDE or min(height, width) < LEAST_SIDE:
            raise ExportError(f"cannot decode {width}x{height} whole: both sides must be multiples of {LEAST_SIDE} pixels")
    return [(height, width) for width, height in job.settings.resolutions]


def _engines(job: Job) -> list[EngineFiles]:
    ranges, cached = profiles(job.config, _whole(job)), cache_shapes(job.config)
    following = [with_cache(profile, cached) for profile in ranges]
    return [EngineFiles(FIRST, FIRST_PLAN, ranges), EngineFiles(FOLLOWING, NEXT_PLAN, following)]


def write_graphs(
    directory: Path, config: VaeConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype, step: progress.Step | None = None
) -> None:
    """Fill a directory with both graphs, computing in `dtype`.

    Raises:
        ExportError: a tensor is missing or has another size than the config says.
    """
    graphs = {files: skeleton(config, Step(files is FIRST, dtype)) for files in (FIRST, FOLLOWING)}
    if step is not None:
        step.expect(sum(weights.layout(graph.weights)[1] for graph in graphs.values()))
    held = dict(tensors)  # the lowered layers are made of several tensors each
    for files, graph in graphs.items():
        own = decoder_tensors(held, files is FIRST)
        advance = step.advance if step else lambda _: None
        writing.write_graph(directory, files, graph, own, list(own), (), Build({}, Dtypes(dtype, dtype)), {}, advance)


def _write(directory: Path, job: Job, _: Dtypes, __: Mapping[str, float], step: progress.Step) -> None:
    write_graphs(directory, job.config, job.source.tensors, DTYPES[job.settings.precision], step)


def _inputs_and_outputs(job: Job, _: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Of the component, which decodes whole clips; the plans decode one latent frame each."""
    latents: list[int | str] = ["batch", job.config.z_dim, "frames", "height", "width"]
    video: list[int | str] = ["batch", 3, "video_frames", "video_height", "video_width"]
    inputs = [TensorSpec(name="latents", dtype="float32", shape=latents)]
    return inputs, [TensorSpec(name="video", dtype="float32", shape=video)]


def _buffers(job: Job) -> tuple[int, str]:
    ranges = profiles(job.config, _whole(job))
    return max(buffer_bytes(profile, cache_shapes(job.config)) for profile in ranges), "feature cache and frames"


VAE = Recipe(
    spec=SPEC,
    component="vae",
    revision=2,  # since it goes through the same stages as a transformer
    network=NETWORK,
    policy=Policy(
        linears=lambda config: [],
        formats=lambda config, precision: {},
        kept_higher=lambda config, precision, high: {
            "norms": "lengths in fp32: sums of squares over channels",
            "frames": "fp32: the picture itself",
        },
        bars=lambda precision: [],
    ),
    engines=_engines,
    write=_write,
    inputs_and_outputs=_inputs_and_outputs,
    check=lambda job: accuracy(job.config, dict(job.source.tensors), DTYPES[job.settings.precision]),
    buffers=_buffers,
    remarks=lambda job: [
        "two plans: the first latent frame, and each that follows, with the feature cache as inputs and outputs",
        "the arithmetic was checked in PyTorch, rounded as the engine rounds; the engine never ran",
    ],
)
