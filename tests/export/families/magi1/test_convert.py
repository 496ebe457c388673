import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.checkpoint.stored import CheckpointError
from export.families.magi1.convert import convert_transformer
from tests.families.magi1.tiny import CONFIG, GATED, tiny_transformer
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

FP8: dict[str, Any] = CONFIG | {"num_layers": 3, "distilled": True, "fp8_layers": [1]}


def official_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """As the official files have it: blocks in bfloat16, embedders and head in fp32, weights of fp8 layers in E4M3."""
    state = {}
    for name, tensor in tiny_transformer(**config).state_dict().items():
        if tensor.dtype == torch.uint8:
            tensor = torch.randn(tensor.shape).to(torch.float8_e4m3fn)
        elif name.startswith("videodit_blocks") and not name.endswith("_scale"):
            tensor = tensor.to(torch.bfloat16)
        state[name] = tensor
    return state


def write_official(folder: Path, state: dict[str, Tensor], shards: int = 1) -> Path:
    """One file, or several with their index."""
    folder.mkdir(parents=True)
    if shards == 1:
        save_file(state, folder / "model.safetensors")
        return folder.parent
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(state.items())[number::shards])
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder.parent


@pytest.mark.parametrize(
    ("config", "name", "shards"),
    [
        (CONFIG, "inference_weight", 1),
        (GATED | {"distilled": True}, "inference_weight.distill", 3),
        (FP8, "inference_weight.fp8.distill", 2),
    ],
    ids=["base", "distilled", "fp8"],
)
def test_official_weights_arrive_unchanged(tmp_path: Path, config: dict[str, Any], name: str, shards: int) -> None:
    state = official_state(config)
    variant_folder = write_official(tmp_path / "official" / name, state, shards)
    convert_transformer(variant_folder, tmp_path / "transformer", "tiny", config, shard_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "transformer").iterdir())
    assert "config.json" in files and "diffusion_pytorch_model.safetensors.index.json" in files and len(files) > 4
    assert all(path.stat().st_size < 130_000 for path in (tmp_path / "transformer").iterdir())

    direct = MagiTransformer3DModel(**config)
    direct.load_state_dict(state, strict=True)
    direct.to_compute_dtype(torch.bfloat16)
    loaded = MagiTransformer3DModel.from_pretrained(tmp_path / "transformer", torch_dtype=torch.bfloat16)
    assert loaded.config.distilled is config.get("distilled", False)
    assert loaded.config.fp8_layers == config.get("fp8_layers", loaded.config.fp8_layers)
    ours, theirs = loaded.state_dict(), direct.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_weights_folder_itself_and_a_single_output_file(tmp_path: Path) -> None:
    write_official(tmp_path / "inference_weight", official_state(CONFIG))
    convert_transformer(tmp_path / "inference_weight", tmp_path / "transformer", "tiny", CONFIG)
    assert {path.name for path in (tmp_path / "transformer").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    with pytest.raises(FileExistsError):
        convert_transformer(tmp_path / "inference_weight", tmp_path / "transformer", "tiny", CONFIG)


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    state = official_state(CONFIG)
    del state["rope.bands"]
    state["rope.extra"] = torch.zeros(1)
    state["x_embedder.weight"] = torch.zeros(64, 8, 1, 2, 2)
    folder = write_official(tmp_path / "official" / "inference_weight", state)
    with pytest.raises(CheckpointError) as raised:
        convert_transformer(folder, tmp_path / "transformer", "tiny", CONFIG)
    message = str(raised.value)
    assert "1 missing: rope.bands" in message and "1 unexpected: rope.extra" in message
    assert "x_embedder.weight is [64, 8, 1, 2, 2] instead of [64, 4, 1, 2, 2]" in message
    assert [path.name for path in tmp_path.iterdir()] == ["official"]


def test_another_variant_is_refused(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "official" / "inference_weight", official_state(CONFIG))
    with pytest.raises(CheckpointError, match=r"inference_weight\.distill is missing"):
        convert_transformer(folder, tmp_path / "transformer", "tiny", CONFIG | {"distilled": True})
    with pytest.raises(CheckpointError, match=r"as 4\.5b-base does not fit: \d+ missing: .* and \d+ more"):
        convert_transformer(folder, tmp_path / "transformer", "4.5b-base")


def test_weights_of_fp8_layers_must_be_fp8(tmp_path: Path) -> None:
    state = official_state(FP8)
    name = "videodit_blocks.layers.1.mlp.linear_fc1.weight"
    state[name] = state[name].to(torch.bfloat16)
    folder = write_official(tmp_path / "official" / "inference_weight.fp8.distill", state)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.linear_fc1\.weight is BF16, it must be F8_E4M3"):
        convert_transformer(folder, tmp_path / "transformer", "tiny", FP8)


def test_files_that_are_not_whole_safetensors_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "official" / "inference_weight"
    destination = tmp_path / "transformer"
    variant = write_official(folder, official_state(CONFIG), shards=2)

    def message() -> str:
        with pytest.raises(CheckpointError) as raised:
            convert_transformer(variant, destination, "tiny", CONFIG)
        assert not destination.exists()
        return str(raised.value)

    shard = folder / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert "model-00002-of-00002.safetensors has" in message() and "its header says" in message()
    shard.rename(folder / f"{shard.name}.zst")
    assert "is compressed: decompress it first" in message()
    (folder / f"{shard.name}.zst").unlink()
    assert "model-00002-of-00002.safetensors is missing" in message()
    shard.write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    index = folder / "model.safetensors.index.json"
    assert f"model-00002-of-00002.safetensors does not hold what {index} says" in message()
    kept = index.read_text()
    index.unlink()
    assert "is both in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors" in message()
    index.write_text(kept)
    index.write_text(json.dumps({"weight_map": {"rope.bands": "../../elsewhere.safetensors"}}))
    assert "only safetensors files of the same folder" in message()
    index.write_text(json.dumps({"weight_map": {"rope.bands": "pytorch_model.bin"}}))
    assert "only safetensors files of the same folder" in message()
    index.write_text("{")
    assert "is not an index" in message()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    state = official_state(FP8)
    name = "videodit_blocks.layers.1.mlp.linear_fc2.smooth_scale"
    state[name][0, 3] = value
    folder = write_official(tmp_path / "official" / "inference_weight.fp8.distill", state)
    with pytest.raises(CheckpointError, match=rf"{name} in .*model\.safetensors has .* at \[0, 3\]"):
        convert_transformer(folder, tmp_path / "transformer", "tiny", FP8)
