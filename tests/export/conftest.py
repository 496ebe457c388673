"""A checkpoint of Wan 2.1 small enough to export in seconds, in one file for each part and in shards."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.families.wan21.tiny import write_checkpoint


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
    write_checkpoint(directory)
    return directory
