"""What a machine with a GPU can test, and what one without says."""

import pytest
import torch

from videosdgx.artifacts import ArtifactError, Manifest, seal
from videosdgx.engines.engine import open_engine


def sealed(directory):
    (directory / "engine.plan").write_bytes(b"no engine")
    manifest = Manifest(
        family="f",
        variant="v",
        component="c",
        precision="fp8",
        target="sm121",
        runtime="tensorrt_rtx",
        versions={"tensorrt_rtx": "1.7.1"},
        source="test",
    )
    return seal(directory, manifest)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_message_says_so(tmp_path):
    sealed(tmp_path)
    with pytest.raises(ArtifactError, match="needs an NVIDIA GPU"):
        open_engine(tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the TensorRT runtime needs an NVIDIA GPU")
def test_a_plan_that_is_none_is_an_artifact_error(tmp_path):
    sealed(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        open_engine(tmp_path)
