"""Of the official repositories only one variant's files are fetched, and they become a checkpoint that is exported."""

import shutil
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from export.checkpoint import download, reading
from export.families.magi1 import official
from export.families.magi1.convert_pipeline import VARIANT_FOLDERS
from export.run.errors import ExportError
from export.run.job import Settings
from tests.export import exports
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.spec import REPOSITORY, TEXT_ENCODER_REPOSITORY

# docs/specs/magi1.md, section 2.
WEIGHTS = {
    "4.5b-base": "4.5B_base/inference_weight",
    "4.5b-distill": "4.5B_distill/inference_weight.distill",
    "4.5b-distill-fp8": "4.5B_distill_quant/inference_weight.fp8.distill",
    "24b-base": "24B_base/inference_weight",
    "24b-distill": "24B_distill/inference_weight.distill",
    "24b-distill-fp8": "24B_distill_quant/inference_weight.fp8.distill",
}


def fill(root: Path, files: Collection[str]) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            (root / name).write_bytes(b"{}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Repositories that are folders here; what is fetched of each goes to `fetched` beside it."""
    repositories: dict[str, Path] = {}

    def files(root: Path) -> list[str]:
        return [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]

    def model_info(_: Any, repository: str, **__: Any) -> SimpleNamespace:
        found = [SimpleNamespace(rfilename=name, size=1, blob_id=name, lfs=None) for name in files(repositories[repository])]
        return SimpleNamespace(sha="0" * 40, siblings=found)

    def snapshot_download(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        root = repositories[repository]
        fetched = tmp_path / "fetched" / root.name
        for name in filter_repo_objects(files(root), allow_patterns=allow_patterns):
            (fetched / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, fetched / name)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return repositories


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_one_variants_files_are_fetched(hub: dict[str, Path], tmp_path: Path, variant: str) -> None:
    root = hub[REPOSITORY] = tmp_path / "official"
    fill(root, [f"ckpt/magi/{folder}/model-00001-of-00002.safetensors" for folder in WEIGHTS.values()])
    fill(root, ["ckpt/vae/config.json", "ckpt/vae/diffusion_pytorch_model.safetensors", "figures/a.png", "LICENSE"])
    fill(root, ["ckpt/t5/t5-v1_1-xxl/pytorch_model-00001-of-00002.bin", "ckpt/t5/t5-v1_1-xxl/config.json"])
    local = download.download(REPOSITORY, official.folders(variant))
    fetched = {str(path.relative_to(local)) for path in local.rglob("*") if path.is_file()}
    assert fetched == {
        f"ckpt/magi/{WEIGHTS[variant]}/model-00001-of-00002.safetensors",
        "ckpt/vae/config.json",
        "ckpt/vae/diffusion_pytorch_model.safetensors",
    }


def test_an_official_variant_is_fetched_and_converted_once(
    hub: dict[str, Path], sources: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub[REPOSITORY], hub[TEXT_ENCODER_REPOSITORY] = sources["official"], sources["text"]
    others = [f"ckpt/magi/{folder}/x/model.safetensors" for folder in VARIANT_FOLDERS.values() if folder != "4.5B_base"]
    fill(sources["official"], others)
    fill(sources["text"], ["transformer/diffusion_pytorch_model.safetensors"])
    monkeypatch.setitem(TRANSFORMERS, "4.5b-base", sources["config"])
    monkeypatch.setattr(official, "SPECIAL_TOKENS_URL", sources["special_tokens"].as_uri())
    monkeypatch.setattr(official, "SPECIAL_TOKENS_SHA256", "0" * 64)
    home = tmp_path / "home"
    job = exports.job("magi1", Settings(home, "4.5b-base", "nvfp4", "sm121"))
    with pytest.raises(ExportError, match="it must be 0000"):
        _ = job.checkpoint
    monkeypatch.setattr(official, "SPECIAL_TOKENS_SHA256", sources["special_tokens_sha256"])
    assert job.checkpoint == home / "checkpoints" / "magi1" / "4.5b-base"
    assert reading.index(job.checkpoint)["_class_name"] == "MagiPipeline" and job.source.origin == REPOSITORY
    assert not list((tmp_path / "fetched").rglob("x")) and not list((tmp_path / "fetched").rglob("transformer"))
    hub.clear()  # nothing is fetched again
    assert official.converted("4.5b-base", home) == job.checkpoint


def test_what_is_no_official_checkpoint_is_refused(
    hub: dict[str, Path], sources: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub[REPOSITORY] = sources["official"]
    hub[TEXT_ENCODER_REPOSITORY] = sources["text"]
    monkeypatch.setattr(official, "SPECIAL_TOKENS_URL", sources["special_tokens"].as_uri())
    monkeypatch.setattr(official, "SPECIAL_TOKENS_SHA256", sources["special_tokens_sha256"])
    with pytest.raises(ExportError, match="inference_weight is missing"):
        official.converted("24b-base", tmp_path / "home")
    assert not (tmp_path / "home/checkpoints/magi1/24b-base").exists()
