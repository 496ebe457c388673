"""The parts beside the transformer: their files are copied in another dtype, a tensor and a shard at a time."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from export.run.components import _convert, export_component
from export.run.errors import ExportError
from videosdgx.artifacts import verify
from videosdgx.families.wan21.spec import SPEC


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_file_is_copied_in_another_dtype(tmp_path, dtype):
    torch.manual_seed(0)
    tensors = {
        "odd.weight": torch.randn(3, 5),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 2, 2).bfloat16(),
        "double": torch.randn(1, 9, dtype=torch.float64),
        "scalar": torch.tensor(0.1),
        "none": torch.empty(0, 4),
        "position_ids": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"format": "pt"})
    _convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype)
    copy = load_file(tmp_path / "b.safetensors")
    assert copy.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert copy[name].dtype == expected.dtype and torch.equal(copy[name], expected), name
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert struct.unpack("<Q", (tmp_path / "b.safetensors").read_bytes()[:8])[0] % 8 == 0


def test_a_sharded_text_encoder_becomes_a_sharded_artifact(sharded_checkpoint, tiny_checkpoint, tmp_path):
    given = (tmp_path, sharded_checkpoint, SPEC, "t2v-1.3b", "text_encoder", "sm121", "tiny")
    assert export_component(*given) and not export_component(*given)  # it is done once
    directory = tmp_path / "artifacts/wan21/t2v-1.3b/text_encoder/bf16-sm121"
    names = set(verify(directory).files)
    assert names == {path.name for path in (sharded_checkpoint / "text_encoder").iterdir()} and len(names) > 4
    assert json.loads((directory / "config.json").read_text())["dtype"] == "bfloat16"
    made = UMT5EncoderModel.from_pretrained(directory)
    expected = UMT5EncoderModel.from_pretrained(tiny_checkpoint / "text_encoder", dtype=torch.bfloat16)
    assert made.dtype == torch.bfloat16
    for name, parameter in expected.state_dict().items():
        assert torch.equal(made.state_dict()[name], parameter), name


def test_a_shard_that_is_cut_short_leaves_no_artifact(sharded_checkpoint, tmp_path):
    broken = tmp_path / "broken" / "text_encoder"
    broken.mkdir(parents=True)
    for path in (sharded_checkpoint / "text_encoder").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    last = sorted(broken.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-4])
    with pytest.raises(ExportError, match=f"{last.name} has .* bytes, its header says .*: download it again"):
        export_component(tmp_path / "home", broken.parent, SPEC, "t2v-1.3b", "text_encoder", "sm121", "tiny")
    assert not [path for path in Path(tmp_path / "home").rglob("*") if path.is_file()]
