from pathlib import Path

import pytest

from export.planning.ask import Ask, requests
from export.planning.engines import engine_memory
from export.planning.wan21.clip import clip_work
from export.planning.work import Request
from videosdgx.artifacts import ArtifactError, FewStep, Manifest, Memory, Profile, artifact_dir, read_manifest, seal
from videosdgx.families import FAMILIES
from videosdgx.families.wan21.spec import DEMO, SPEC
from videosdgx.families.wan21.vae_loop import LATENT

REQUEST = Request("wan21", DEMO, "fp8", 64, 64, 9, 20)


def profile(name: str, frames: int, activation: int | None) -> Profile:
    low, high = {"hidden_states": [1, 16, 1, 4, 4]}, {"hidden_states": [2, 16, frames, 16, 16]}
    return Profile(name=name, min=low, opt=high, max=high, activation_bytes=activation)


def seal_manifest(home: Path, memory: Memory | None, profiles: list[Profile] | None = None) -> Path:
    directory = artifact_dir(home, "wan21", "demo", "transformer", "fp8", "sm121")
    directory.mkdir(parents=True, exist_ok=True)
    facts = {"family": "wan21", "variant": "demo", "component": "transformer", "precision": "fp8", "target": "sm121"}
    seal(
        directory,
        Manifest(**facts, runtime="tensorrt_rtx", versions={}, source="a test", memory=memory, profiles=profiles or []),
    )
    return directory


def figures(home: Path, frames: int):
    weights, activation = engine_memory(home, REQUEST, "transformer", "fp8", {"hidden_states": [1, 16, frames, 8, 8]})
    return weights and weights.value, activation and activation.value


def test_without_an_artifact_nothing_is_told(tmp_path):
    assert engine_memory(tmp_path, REQUEST, "transformer", "fp8", {}) == (None, None)
    seal_manifest(tmp_path, None)
    assert engine_memory(tmp_path, REQUEST, "transformer", "fp8", {}) == (None, None)


def test_the_smallest_profile_that_accepts_the_clip_tells_its_activations(tmp_path):
    memory = Memory(weights_bytes=1000, activation_bytes=900, source="a compiler")
    seal_manifest(tmp_path, memory, [profile("long", 21, 700), profile("short", 5, 300)])
    assert figures(tmp_path, frames=3) == (1000, 300)
    assert figures(tmp_path, frames=9) == (1000, 700)
    assert figures(tmp_path, frames=30) == (1000, 900)


def test_a_plan_takes_an_engines_own_figures(tmp_path):
    counted = {part.component: part for part in clip_work(REQUEST, tmp_path).parts}
    seal_manifest(tmp_path, Memory(weights_bytes=123_456, activation_bytes=654_321, source="a compiler"))
    planned = {part.component: part for part in clip_work(REQUEST, tmp_path).parts}
    engine = planned["transformer"]
    assert (engine.weights.value, engine.weights.source) == (123_456, "manifest")
    assert (engine.activation.value, engine.activation.source) == (654_321, "manifest")
    assert engine.operations == counted["transformer"].operations
    assert planned["vae"] == counted["vae"] and counted["transformer"].weights.source == "counted"


def test_a_decoder_that_was_compiled_is_planned_with(tmp_path):
    directory = artifact_dir(tmp_path, "wan21", "demo", "vae", "bf16", "sm121")
    directory.mkdir(parents=True)
    tile = {LATENT: [1, 16, 1, 32, 32]}
    shapes = [Profile(name="256x256", min={LATENT: [1, 16, 1, 2, 2]}, opt=tile, max=tile, activation_bytes=7_000)]
    facts = {"family": "wan21", "variant": "demo", "component": "vae", "precision": "bf16", "target": "sm121"}
    memory = Memory(weights_bytes=5_000, activation_bytes=9_000, source="a compiler")
    seal(directory, Manifest(**facts, runtime="tensorrt_rtx", versions={}, source="a test", memory=memory, profiles=shapes))
    clip = clip_work(REQUEST, tmp_path)
    assert clip.decoders is not None
    plain, engine = clip.decoders
    assert engine in clip.parts and plain not in clip.parts
    assert engine.precision == "bf16" and (engine.weights.value, engine.weights.source) == (5_000, "manifest")
    video = 3 * 4 * 9 * 64 * 64
    assert engine.activation.value > 7_000 + video and engine.activation.source == "manifest"


def test_a_damaged_manifest_is_an_error(tmp_path):
    (seal_manifest(tmp_path, None) / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a valid manifest"):
        engine_memory(tmp_path, REQUEST, "transformer", "fp8", {})


def test_a_plan_follows_an_engine_of_few_steps(tmp_path):
    directory = seal_manifest(tmp_path, None)
    manifest = read_manifest(directory)
    target = f"{manifest.family}:{manifest.variant}"
    seal(directory, manifest.model_copy(update={"few_step": FewStep(sampler="renoise", steps=4, shift=5.0)}))
    found, _ = requests([target], FAMILIES, Ask(), ("fp8", "nvfp4"), tmp_path)
    plain = SPEC.variant(manifest.variant)
    for request in found:
        few = request.precision == manifest.precision
        assert (request.steps, request.guided) == ((4, False) if few else (plain.num_inference_steps, True))
        assert request.variant.sampler == ("renoise" if few else "unipc")
        runs = next(part.runs for part in clip_work(request, tmp_path).parts if part.component == "transformer")
        assert runs == (4 if few else 2 * plain.num_inference_steps)
    assert [request.steps for request in requests([target], FAMILIES, Ask(steps=8), ("fp8",), tmp_path)[0]] == [8]
