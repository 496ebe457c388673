"""A checkpoint small enough to export in seconds: the demo's text encoder with a random transformer and VAE."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from tiny_wan21 import random_transformer

from export.demo.checkpoint import WAN21


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
