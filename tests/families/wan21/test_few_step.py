"""The few-step samplers: the published noise levels, their arithmetic, and seeds that decide everything."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from videosdgx.artifacts import FewStep, Manifest, building, seal
from videosdgx.families import FAMILIES
from videosdgx.families.prompts import PromptCache
from videosdgx.families.request import parse_request
from videosdgx.families.spec import Sampler
from videosdgx.families.wan21.few_step import FewStepScheduler, build_scheduler, share_generator
from videosdgx.families.wan21.pipeline import generate
from videosdgx.families.wan21.spec import DEMO, SPEC
from videosdgx.home import CHECKOUT
from videosdgx.media.video import to_uint8
from videosdgx.serving.settings import FamilySettings, Settings

CHECKPOINT = CHECKOUT / DEMO.checkpoint
SIGMAS = [1.0, 0.9375, 5 / 6, 0.625, 0.0]  # the published timesteps 1000, 750, 500, 250 at shift 5
SHAPE = (2, 4, 2, 3, 5)

Model = Callable[[Tensor, float], Tensor]


def wavy(x: Tensor, sigma: float) -> Tensor:
    """A velocity that depends on everything, for each clip by itself."""
    return torch.sin(3 * x) + sigma * x.flatten(1).mean(1).reshape(-1, 1, 1, 1, 1)


def sample(sampler: Sampler, model: Model, x: Tensor, generator: torch.Generator | list[torch.Generator]) -> Tensor:
    scheduler = build_scheduler(CHECKPOINT / "scheduler", sampler, 5.0)
    scheduler.set_timesteps(4)
    share_generator(scheduler, generator)
    for timestep in scheduler.timesteps:
        x = scheduler.step(model(x, float(timestep) / 1000), timestep, x, return_dict=False)[0]
    return x


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def start(*seeds: int) -> Tensor:
    return torch.cat([torch.randn(1, *SHAPE[1:], generator=generator) for generator in seeded(*(100 + s for s in seeds))])


@pytest.mark.parametrize("family", ["wan21", "magi1"])
def test_what_is_served_follows_the_transformers_manifest(tmp_path, family):
    spec = FAMILIES[family]
    precision = spec.default_precision
    chosen = {family: FamilySettings(variant="demo", precision=precision)}
    settings = Settings(home=tmp_path, target="cpu", families=chosen, http_port=0, grpc_port=0, metrics_port=0)
    plain = spec.variant("demo")
    assert settings.variant(family) == plain  # nothing is exported yet
    facts = {"family": family, "variant": "demo", "precision": precision, "target": "cpu", "versions": {}, "source": "test"}
    component = next(name for name, part in spec.components.items() if not part.torch)
    manifest = Manifest(component=component, runtime="onnxruntime", **facts)
    for few in (None, FewStep(sampler="euler", steps=6, shift=5.0)):
        with building(settings.artifact(family, component)) as partial:
            seal(partial, manifest.model_copy(update={"few_step": few}))
        assert settings.variant(family) == plain.sampled(few)
    served = settings.variant(family)
    assert (served.sampler, served.num_inference_steps, served.flow_shift) == ("euler", 6, 5.0)
    (settings.artifact(family, component) / "manifest.json").write_text("{")  # loading the component tells of it
    assert settings.variant(family) == plain


def test_a_request_takes_few_steps_without_guidance_unless_it_says_else():
    variant = DEMO.sampled(FewStep(sampler="renoise", steps=4, shift=5.0))
    request = parse_request({"prompt": "x"}, SPEC, variant)
    assert (request.num_inference_steps, request.guidance_scale) == (4, 1.0)
    request = parse_request({"prompt": "x", "num_inference_steps": 6}, SPEC, variant)
    assert (request.num_inference_steps, request.guidance_scale) == (6, 1.0)
    assert variant == replace(DEMO, sampler="renoise", num_inference_steps=4, guidance_scale=1.0, flow_shift=5.0)


@pytest.mark.parametrize("sampler", ["renoise", "euler"])
def test_levels_are_the_published_ones(sampler):
    scheduler = build_scheduler(CHECKPOINT / "scheduler", sampler, 5.0)
    scheduler.set_timesteps(4)
    assert scheduler.sigmas.tolist() == pytest.approx(SIGMAS, abs=1e-6)
    assert scheduler.timesteps.tolist() == pytest.approx([1000, 937.5, 2500 / 3, 625], abs=1e-3)
    assert scheduler.timesteps.dtype == torch.float32


def test_levels_are_nearly_those_of_the_official_sampler():
    official = build_scheduler(CHECKPOINT / "scheduler", "unipc", 5.0)
    assert isinstance(official, UniPCMultistepScheduler)
    official.set_timesteps(4)
    assert official.sigmas.tolist() == pytest.approx(SIGMAS, abs=1e-3)


def test_renoising_is_a_plain_loop():
    (generator,) = seeded(7)
    result = sample("renoise", wavy, start(0, 1), generator)
    (generator,) = seeded(7)
    x = start(0, 1)
    for sigma, following in pairwise(SIGMAS):
        clean = x - sigma * wavy(x, sigma)
        x = clean if following == 0 else (1 - following) * clean + following * torch.randn(SHAPE, generator=generator)
    torch.testing.assert_close(result, x, rtol=1e-5, atol=1e-5)


def test_euler_is_a_plain_loop_and_needs_no_generator():
    x = start(0, 1)
    for sigma, following in pairwise(SIGMAS):
        x = x + (following - sigma) * wavy(x, sigma)
    scheduler = FewStepScheduler(shift=5.0)
    scheduler.set_timesteps(4)
    result = start(0, 1)
    for timestep in scheduler.timesteps:
        result = scheduler.step(wavy(result, float(timestep) / 1000), timestep, result).prev_sample
    torch.testing.assert_close(result, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampler", ["renoise", "euler"])
def test_the_exact_velocity_leads_to_the_clean_clip(sampler):
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    result = sample(sampler, lambda x, sigma: (x - clean) / sigma, start(0, 1), seeded(1, 2))
    torch.testing.assert_close(result, clean, rtol=1e-5, atol=1e-5)


def test_the_seed_decides():
    first, again, other = (sample("renoise", wavy, start(0, 1), seeded(*seeds)) for seeds in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0]) and not torch.allclose(first[1], other[1], atol=0.1)


def test_a_clip_does_not_depend_on_its_batch():
    together = sample("renoise", wavy, start(0, 1), seeded(1, 2))
    for index in range(2):
        alone = sample("renoise", wavy, start(index), seeded(index + 1))
        torch.testing.assert_close(together[index : index + 1], alone)


@pytest.mark.parametrize("sampler", ["renoise", "euler"])
def test_latents_stay_fp32_when_the_model_computes_in_bf16(sampler):
    result = sample(sampler, lambda x, sigma: wavy(x, sigma).bfloat16(), start(0, 1), seeded(1, 2))
    assert result.dtype == torch.float32


def test_noise_that_nobody_could_draw_again_is_refused():
    scheduler = FewStepScheduler(shift=5.0, stochastic_sampling=True)
    scheduler.set_timesteps(4)
    x = start(0, 1)
    with pytest.raises(ValueError, match="give it a generator"):
        scheduler.step(x, scheduler.timesteps[0], x)


class Silent:
    id = "silent"

    def plan(self, steps: int, chunks: int) -> None: ...
    def phase(self, name: str) -> None: ...
    def step(self, step: int) -> None: ...


def test_drops_into_the_pipeline_with_one_forward_for_each_step():
    """The whole family code with networks that are functions: noise from the request's seed, no guidance, fp32 timesteps."""
    variant = replace(DEMO, sampler="renoise", flow_shift=5.0, num_inference_steps=4, guidance_scale=1.0)
    timesteps: list[float] = []

    def transformer(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        timesteps.extend(inputs["timestep"].tolist())
        return {"sample": wavy(torch.from_numpy(inputs["hidden_states"]), inputs["timestep"][0] / 1000).numpy()}

    def vae(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        latents = inputs["latents"]
        return {"video": np.tanh(latents[:, :3].repeat(8, 3).repeat(8, 4))}

    def text_encoder(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"last_hidden_state": np.zeros((*inputs["input_ids"].shape, 64), "float32")}

    networks = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae}

    def make(seed: int) -> np.ndarray:
        request = parse_request({"prompt": b"a red circle", "seed": seed}, SPEC, variant)
        (piece,) = generate(CHECKPOINT, variant, request, networks, Silent(), PromptCache())
        assert piece.frames.dtype == np.uint8 and piece.audio is None
        return piece.frames

    first = make(3)
    assert timesteps == pytest.approx([1000, 937.5, 2500 / 3, 625], abs=1e-3)
    assert np.array_equal(first, make(3)) and not np.allclose(first, make(4), atol=25)
    # The latents and the later noise are one sequence from the request's seed.
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 16, 3, 8, 8, generator=generator)
    for sigma, following in pairwise(SIGMAS):
        clean = x - sigma * wavy(x, sigma)
        x = (1 - following) * clean + following * torch.randn(x.shape, generator=generator)
    seen = first[:, ::8, ::8]
    config = json.loads((CHECKPOINT / "vae" / "config.json").read_text())
    mean, std = (torch.tensor(config[name])[:3].reshape(3, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    expected = to_uint8((torch.tanh(x[0, :3] * std + mean).permute(1, 2, 3, 0) / 2 + 0.5).numpy())
    difference = np.abs(seen.astype(int) - expected)
    # Rounding may tip over where the two differ in the last bits of a float.
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
