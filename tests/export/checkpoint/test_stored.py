"""Folders of weights: read by their index, with what is missing, doubtful or no number named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.finite import first_not_finite
from export.checkpoint.reading import Tensors
from export.checkpoint.stored import CheckpointError, shards_of, stored_tensors
from export.families.wan21.pipeline import load_pipeline
from export.run.components import export_component
from export.run.errors import ExportError
from tests.export import exports
from videosdgx.artifacts import artifact_dir
from videosdgx.families.wan21.spec import SPEC

NAMES = ("diffusion_pytorch_model", "model", "odd_name")


def sharded(folder: Path, name: str = "model", offset: float = 0.0) -> Path:
    """Two files of one tensor each, and their index."""
    folder.mkdir(exist_ok=True)
    places = {}
    for number, tensor in enumerate("ab", 1):
        places[tensor] = f"{name}-{number:05}-of-00002.safetensors"
        save_file({tensor: torch.full((2,), number + offset)}, folder / places[tensor])
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def values(folder: Path) -> dict[str, float]:
    return {name: float(tensor[0]) for name, tensor in Tensors(folder).items()}


@pytest.mark.parametrize("name", NAMES)
def test_an_index_counts_whatever_lies_beside_it(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path, name)
    save_file({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, folder / f"{name}.safetensors")
    save_file({"b": torch.zeros(2)}, folder / f"{name}.fp16.safetensors")
    save_file({"b": torch.zeros(2)}, folder / "zz.safetensors")
    assert values(folder) == {"a": 1, "b": 2}
    # A tensor that a shard has too, but that the index has elsewhere.
    save_file({"a": torch.zeros(2), "b": torch.full((2,), 2.0)}, folder / f"{name}-00002-of-00002.safetensors")
    assert values(folder) == {"a": 1, "b": 2}
    assert [path.name for path in shards_of(folder)] == [f"{name}-0000{number}-of-00002.safetensors" for number in (1, 2)]


@pytest.mark.parametrize("with_index", [True, False])
def test_a_missing_shard_is_named(tmp_path: Path, with_index: bool) -> None:
    folder = sharded(tmp_path)
    save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, folder / "model.safetensors")
    if not with_index:
        (folder / "model.safetensors.index.json").unlink()
        (folder / "model.safetensors").unlink()
        assert values(folder) == {"a": 1, "b": 2}
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ExportError, match=r"model-00001-of-00002\.safetensors is missing") as error:
        Tensors(folder)
    assert ("which model.safetensors.index.json names" in str(error.value)) == with_index


def test_without_an_index_only_what_is_certain_is_read(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "model.safetensors.index.json").unlink()
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no index and more than one set of weights, keep one: model\.safetensors"):
        shards_of(folder)
    for path in folder.glob("model-*"):
        path.unlink()
    save_file({"a": torch.ones(2)}, folder / "model.fp16.safetensors")
    assert values(folder) == {"a": 0}
    (folder / "model.safetensors").unlink()
    assert values(folder) == {"a": 1}
    save_file({"a": torch.ones(2)}, folder / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"several files of weights, keep one: model\.fp16\.safetensors, other"):
        shards_of(folder)


def test_an_index_that_says_what_is_not_so_is_refused(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {"c": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors does not hold what .* says: c"):
        stored_tensors(folder)
    for content in ({"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": ["a"]}, {}, []):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match="is not an index of safetensors files"):
            stored_tensors(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_a_value_that_is_no_number_is_named_with_its_place(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 4)
    tensor[2, 1] = torch.nan
    save_file({"good": torch.ones(2).to(dtype), "bad": tensor.to(dtype)}, tmp_path / "model.safetensors")
    tensors = Tensors(tmp_path)
    assert tensors["good"].dtype == dtype
    with pytest.raises(CheckpointError, match=r"bad in .*model\.safetensors has NaN at \[2, 1\]: download it again"):
        tensors["bad"]


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (torch.full((4,), 3e38), None),  # the sum is infinite, the values are not
        (torch.tensor([1.0, -torch.inf, torch.nan]), "an infinite value at [1] and 1 more"),
        (torch.tensor(torch.nan), "NaN at []"),
        (torch.ones(2, dtype=torch.int8), None),
        (torch.empty(0), None),
    ],
)
def test_first_not_finite(tensor: Tensor, found: str | None) -> None:
    assert first_not_finite(tensor) == found


def test_an_export_names_them_before_and_while_it_works(sharded_checkpoint: Path, tmp_path: Path) -> None:
    """In a shard of the transformer, which is read to calibrate; and a shard that is missing."""
    checkpoint = tmp_path / "bad"
    shutil.copytree(sharded_checkpoint, checkpoint)
    index = json.loads(next((checkpoint / "transformer").glob("*.index.json")).read_text())["weight_map"]
    name = "blocks.1.ffn.net.2.weight"
    path = checkpoint / "transformer" / index[name]
    content = dict(Tensors(checkpoint / "transformer"))
    own = {one: content[one].clone() for one, place in index.items() if place == path.name}
    own[name][0, 0] = torch.inf
    save_file(own, path, {"format": "pt"})
    given = ("wan21", "--home", str(tmp_path / "home"), "--checkpoint", str(checkpoint), "--clips", "1")
    code, output = exports.export(*given)
    assert code == 1 and f"{name} in {path} has an infinite value at [0, 0]" in output
    path.unlink()
    code, output = exports.export(*given)
    assert code == 1 and "is missing, which diffusion_pytorch_model.safetensors.index.json names" in output


def test_an_old_whole_file_beside_shards_is_not_in_the_artifact(sharded_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, home = tmp_path / "mixed", tmp_path / "home"
    shutil.copytree(sharded_checkpoint, checkpoint)
    folder = checkpoint / "text_encoder"
    wanted = dict(Tensors(sharded_checkpoint / "text_encoder"))
    save_file({name: torch.zeros_like(tensor) for name, tensor in wanted.items()}, folder / "model.safetensors")
    export_component(home, checkpoint, SPEC, "demo", "text_encoder", "cpu", "here")
    artifact = artifact_dir(home, "wan21", "demo", "text_encoder", "fp32", "cpu")
    assert not (artifact / "model.safetensors").exists()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in Tensors(artifact).items())
    # Nor does the pipeline that calibrates and is compared with have it.
    pipe = load_pipeline(checkpoint, SPEC.variant("demo"))
    assert pipe.text_encoder.dtype == torch.float32
    loaded = pipe.text_encoder.state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in wanted.items())


def test_a_weight_that_is_no_number_in_a_part_that_pytorch_runs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "bad"
    shutil.copytree(tiny_checkpoint, checkpoint)
    file = checkpoint / "text_encoder" / "model.safetensors"
    content = {name: tensor.clone() for name, tensor in Tensors(file.parent).items()}
    name = "encoder.final_layer_norm.weight"
    content[name][1] = torch.nan
    save_file(content, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{name} in .*model\.safetensors has NaN at \[1\]"):
        export_component(tmp_path / "home", checkpoint, SPEC, "demo", "text_encoder", "cpu", "here")
    assert not list((tmp_path / "home").rglob("*.safetensors"))
