"""MAGI-1 checkpoints small enough to export in seconds, in our layout and in the official one."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from export.families.magi1.convert_pipeline import VAE_FIXED, VAE_RENAMED
from tests.families.magi1.tiny import tiny_pipeline, write_checkpoint
from videosdgx.families.magi1.spec import SPEC

_DDCONFIG = (
    "in_channels", "latent_channels", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "video_size", "video_length",
    "patch_size", "patch_length", "use_final_proj",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_magi1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("magi1") / "tiny"
    write_checkpoint(directory)
    return directory


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's clips with two chunks and few steps."""
    monkeypatch.setitem(SPEC.variants, "demo", replace(SPEC.variants["demo"], num_frames=48, num_inference_steps=4))


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    """The arguments of `convert_pipeline`."""
    pipeline = tiny_pipeline()
    official, text = tmp_path / "official", tmp_path / "text"
    weights = official / "ckpt" / "magi" / "4.5B_base" / "inference_weight"
    vae = official / "ckpt" / "vae"
    weights.mkdir(parents=True)
    vae.mkdir()
    save_file(pipeline.transformer.state_dict(), weights / "model.safetensors")
    save_file(pipeline.vae.state_dict(), vae / "diffusion_pytorch_model.safetensors")
    theirs = {ours: name for name, ours in VAE_RENAMED.items()}
    described = {theirs.get(key, key): pipeline.vae.config[key] for key in _DDCONFIG} | VAE_FIXED
    (vae / "config.json").write_text(json.dumps({"_class_name": "ViTVAE", "model_type": "vit", "ddconfig": described}))
    pipeline.text_encoder.save_pretrained(text / "text_encoder")
    pipeline.tokenizer.save_pretrained(text / "tokenizer")
    (text / "tokenizer" / "extra.bin").write_bytes(b"a pickle")
    npz = tmp_path / "special_tokens.npz"
    arrays = {name: tensor.double().numpy() for name, tensor in pipeline.special_tokens.state_dict().items()}
    np.savez(npz, **arrays)
    config = {key: value for key, value in pipeline.transformer.config.items() if not key.startswith("_")}
    return {
        "official": official,
        "text": text,
        "special_tokens": npz,
        "destination": tmp_path / "pipeline",
        "variant": "4.5b-base",
        "config": config,
        "special_tokens_sha256": hashlib.sha256(npz.read_bytes()).hexdigest(),
    }
