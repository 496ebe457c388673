"""What a machine without a GPU says to the VAE's engine."""

import json

import pytest
import torch

from videosdgx.artifacts import ArtifactError, Manifest, Profile, artifact_dir, seal, verify
from videosdgx.families.spec import load
from videosdgx.families.wan21.spec import SPEC
from videosdgx.families.wan21.vae_engine import EngineVAE, whole_sizes


def sealed(directory):
    (directory / "first.plan").write_bytes(b"no engine")
    (directory / "next.plan").write_bytes(b"no engine")
    (directory / "config.json").write_text(json.dumps({"z_dim": 16}))
    sides = [[32, 32], [60, 104]]
    shapes = [{"latent": [1, 16, 1, *side]} for side in sides]
    manifest = Manifest(
        family="wan21",
        variant="demo",
        component="vae",
        precision="fp16",
        target="sm121",
        runtime="tensorrt_rtx",
        versions={"tensorrt_rtx": "1.7.1"},
        source="test",
        profiles=[Profile(name="p", min=shape, opt=shape, max=shape) for shape in shapes],
    )
    return seal(directory, manifest)


def test_sizes_decoded_whole_are_in_pixels(tmp_path):
    assert whole_sizes(sealed(tmp_path)) == ((256, 256), (480, 832))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_message_says_so(tmp_path):
    with pytest.raises(ArtifactError, match="needs an NVIDIA GPU"):
        EngineVAE(tmp_path, sealed(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_serving_opens_it_where_it_was_exported(tmp_path):
    directory = artifact_dir(tmp_path, "wan21", "demo", "vae", "fp16", "sm121")
    directory.mkdir(parents=True)
    sealed(directory)
    with pytest.raises(ArtifactError, match="fp16-sm121 needs an NVIDIA GPU"):
        load(SPEC.component("vae").opener)(directory, verify(directory))
