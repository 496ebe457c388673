"""A checkpoint small enough to export in seconds: the demo's text encoder with a random transformer and VAE."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from export.demo.checkpoint import WAN21
from tests.export.families.wan21.tiny import random_transformer


def _in_shards(component: Path, most: int) -> None:
    """Rewrite a component's one file as several of at most `most` bytes, with an index, as large checkpoints are published."""
    (file,) = component.glob("*.safetensors")
    shards, size = [{}], 0
    for name, tensor in sorted(load_file(file).items()):
        if size + tensor.nbytes > most and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    names = [f"{file.stem}-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, component / name, {"format": "pt"})
    places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": file.stat().st_size}, "weight_map": places}
    (component / f"{file.name}.index.json").write_text(json.dumps(index))
    file.unlink()


@pytest.fixture(scope="session")
def sharded_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in fp32 shards."""
    directory = tmp_path_factory.mktemp("sharded") / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    _in_shards(directory / "transformer", 60_000)
    _in_shards(directory / "text_encoder", 100_000)
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    shutil.copytree(WAN21, directory, ignore=shutil.ignore_patterns("transformer", "vae"))
    random_transformer().save_pretrained(directory / "transformer")
    torch.manual_seed(2)
    settings = json.loads((WAN21 / "vae" / "config.json").read_text())
    vae = AutoencoderKLWan.from_config(settings | {"base_dim": 4, "num_res_blocks": 1})
    vae.save_pretrained(directory / "vae")
    return directory
