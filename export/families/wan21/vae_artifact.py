"""The artifact of Wan 2.1's video decoder as two TensorRT plans, which decode without PyTorch's fp32 modules."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from export.check.accuracy import psnr_db
from export.checkpoint import reading
from export.checkpoint.random_weights import RandomTensors
from export.compile import REVISION, compile_engine
from export.families.wan21 import vae_graph
from export.families.wan21.source import SEED
from export.families.wan21.vae_lowered import HISTORY, LoweredVaeDecoder, Step, VaeConfig, decoder_tensors
from export.run.components import is_current
from export.run.errors import ExportError, require_space
from export.run.job import Settings
from export.run.progress import Report
from export.run.stages import digest
from export.run.versions import versions
from videosdgx.artifacts import Manifest, Memory, Profile, TensorSpec, artifact_dir, building, seal
from videosdgx.families.wan21.spec import SPEC
from videosdgx.families.wan21.vae_engine import FIRST_PLAN, NEXT_PLAN
from videosdgx.families.wan21.vae_loop import LATENT, SPATIAL, Tiling, cache_input

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LEAST_SIDE = 16  # pixels; what is left of a frame at its edge may be as small
_COMPILE_UNITS = 6  # of progress: a graph, its parsing and its compilation, twice


@dataclass(frozen=True)
class VaeSource:
    """A VAE to read one tensor at a time: `content` is its config.json, `digest` says what its weights are."""

    origin: str
    content: dict[str, Any]
    tensors: Mapping[str, Tensor]
    digest: str
    random: bool = False


def _decodes(name: str) -> bool:
    return not name.startswith(("encoder.", "quant_conv."))


def vae_source(settings: Settings) -> VaeSource:
    """The decoder that is asked for: of the checkpoint, downloaded if need be, or the published shape drawn from a seed.

    Raises:
        ExportError: there is no such checkpoint, or it is not usable.
    """
    if settings.random_weights:
        with torch.device("meta"):
            model = AutoencoderKLWan()
        content = {name: value for name, value in model.config.items() if not name.startswith("_")}
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if _decodes(name)}
        drawn = digest({"config": content, "seed": SEED, "torch": torch.__version__})
        return VaeSource(f"random weights, seed {SEED}", content, RandomTensors(shapes, SEED), drawn, random=True)
    named = settings.checkpoint or SPEC.variants[settings.variant].checkpoint
    source = reading.resolve(named) / "vae"
    tensors = reading.Tensors(source, _decodes)
    return VaeSource(named, reading.config(source), tensors, reading.digest(source))


def profiles(config: VaeConfig, whole: Sequence[tuple[int, int]]) -> list[Profile]:
    """A profile for tiles and one for each of the `whole` sizes; of the latent only, see `with_cache`."""

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


def _compile(
    settings: Settings, config: VaeConfig, tensors: Mapping[str, Tensor], directory: Path, advance: Callable[[float], None]
) -> list[list[Memory]]:
    """Write both plans into `directory`, and return the memory of each with each profile; the graphs are not kept."""
    dtype = DTYPES[settings.precision]
    shapes = vae_graph.cache_shapes(config)
    ranges = profiles(config, _whole(settings))
    memory = []
    for name, first in ((FIRST_PLAN, True), (NEXT_PLAN, False)):
        own = ranges if first else [with_cache(profile, shapes) for profile in ranges]
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            graph = vae_graph.write(Path(scratch), Path(name).stem, config, Step(first, dtype), tensors)
            advance(1)
            memory.append(compile_engine(graph, directory / name, own, settings.compiler, advance))
    return memory


def _manifest(
    settings: Settings, source: VaeSource, memory: Sequence[Sequence[Memory]], figures: dict[str, float], recipe: str
) -> Manifest:
    """The manifest without its files; the inputs and outputs are the component's, the profiles those of one latent frame."""
    config = VaeConfig.from_dict(source.content)
    ranges = profiles(config, _whole(settings))
    buffers = max(buffer_bytes(profile, vae_graph.cache_shapes(config)) for profile in ranges)
    weights = sum(plan[0].weights_bytes for plan in memory)
    # The two steps run one after the other.
    by_profile = [max(one.activation_bytes or 0 for one in both) for both in zip(*memory, strict=True)]
    activation = max(by_profile)
    measured = zip(ranges, by_profile, strict=True)
    ranges = [profile.model_copy(update={"activation_bytes": most}) for profile, most in measured]
    latents: list[int | str] = ["batch", config.z_dim, "frames", "height", "width"]
    video: list[int | str] = ["batch", 3, "video_frames", "video_height", "video_width"]
    remarks = [
        "two plans: the first latent frame, and each that follows, with the feature cache as inputs and outputs",
        "the arithmetic was checked in PyTorch, rounded as the engine rounds; the engine never ran",
    ]
    if source.random:
        remarks.append("random weights, drawn from a seed: for rehearsal and planning, it makes no videos")
    return Manifest(
        family="wan21",
        variant=settings.variant,
        component="vae",
        precision=settings.precision,
        target="sm121",
        runtime=settings.compiler,  # type: ignore[arg-type]
        versions=versions("torch", "diffusers", "onnx", "onnxscript", settings.compiler),
        source=f"{source.origin}, vae sha256 {source.digest[:16]}",
        recipe=recipe,
        random_weights=source.random,
        policy={"norms": "lengths in fp32: sums of squares over channels", "frames": "fp32: the picture itself"},
        inputs=[TensorSpec(name="latents", dtype="float32", shape=latents)],
        outputs=[TensorSpec(name="video", dtype="float32", shape=video)],
        profiles=ranges,
        accuracy=figures,
        memory=Memory(
            weights_bytes=weights,
            activation_bytes=activation,
            peak_bytes=weights + activation + buffers,
            source=f"{memory[0][0].source}; the peak adds {buffers} bytes of feature cache and frames",
        ),
        remarks=remarks,
    )


def _whole(settings: Settings) -> list[tuple[int, int]]:
    """(height, width) in pixels of the frames that are to be decoded without tiles."""
    return [(height, width) for width, height in settings.resolutions]


def _recipe(settings: Settings, source: VaeSource, config: VaeConfig) -> str:
    """Digest of all that the artifact depends on."""
    return digest(
        {
            "revision": 1,
            "compile": REVISION,
            "checkpoint": source.digest,
            "precision": settings.precision,
            "profiles": [profile.model_dump() for profile in profiles(config, _whole(settings))],
            "versions": versions("torch", "onnx", "onnxscript", settings.compiler),
        }
    )


def export_vae_engine(settings: Settings, report: Report) -> Path:
    """Compile the decoder for sm121 and return the artifact's directory; nothing is done if it is there already.

    Frames of the `resolutions` of the settings are decoded whole, others in tiles of 256 pixels.

    Raises:
        ExportError: a size is not possible, the checkpoint is not usable, or the compiler refuses a graph.
    """
    for height, width in _whole(settings):
        if height % LEAST_SIDE or width % LEAST_SIDE or min(height, width) < LEAST_SIDE:
            raise ExportError(f"cannot decode {width}x{height} whole: both sides must be multiples of {LEAST_SIDE} pixels")
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    with report.step("checkpoint") as step:
        source = vae_source(settings)
        config = VaeConfig.from_dict(source.content)
        step.note(source.origin)
    recipe = _recipe(settings, source, config)
    directory = artifact_dir(settings.home, "wan21", settings.variant, "vae", settings.precision, "sm121")
    if not settings.fresh and is_current(directory, recipe):
        report.console.print(f"already there, made from the same settings: {directory}", soft_wrap=True)
        return directory
    with building(directory) as partial:
        tensors = dict(source.tensors)
        # Graph and plan of the larger step, and the plan of the smaller, which has a third of its weights.
        require_space(partial, 3 * sum(2 * tensor.numel() for tensor in tensors.values()))
        with report.step("compile", _COMPILE_UNITS) as step:
            memory = _compile(settings, config, tensors, partial, step.advance)
            (partial / "config.json").write_text(json.dumps(source.content, indent=2, sort_keys=True) + "\n")
            sizes = (sum(plan[0].weights_bytes for plan in memory), max(one.activation_bytes or 0 for one in memory[1]))
            step.note("two plans, weights {:.1f} MB, activations {:.1f} MB".format(*(size / 1e6 for size in sizes)))
        with report.step("verify") as step:
            figures = accuracy(config, tensors, DTYPES[settings.precision])
            step.note(", ".join(f"{name} {value}" for name, value in figures.items()))
        seal(partial, _manifest(settings, source, memory, figures, recipe))
    return directory
