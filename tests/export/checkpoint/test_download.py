"""What is fetched of a repository, whether it fits, and what is said without a connection."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import filter_repo_objects

from export.checkpoint import download
from export.run.errors import ExportError

SHARD = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
FILES = {
    "model_index.json": 400,
    "scheduler/scheduler_config.json": 700,
    "tokenizer/spiece.model": 4_500_000,
    SHARD: 9_000_000_000,
    "transformer/diffusion_pytorch_model.bin": 18_000_000_000,
    "text_encoder/pytorch_model.pth": 11_000_000_000,
    "vae/modeling.py": 5_000,
    "assets/demo.mp4": 80_000_000,
}
WANTED = 9_000_000_000 + 4_500_000 + 700 + 400


def entries() -> list[RepoSibling]:
    """As the Hub lists them: large files under their SHA-256, small ones under Git's digest."""
    found = []
    for number, (name, size) in enumerate(FILES.items()):
        entry = {"rfilename": name, "size": size, "blobId": f"{number:040x}"}
        large = {"lfs": {"sha256": f"{number:064x}", "size": size, "pointerSize": 130}} if size > 1_000_000 else {}
        found.append(entry | large)
    return ModelInfo(id="owner/name", siblings=found).siblings or []


def test_no_pickle_and_no_code_is_fetched():
    kept = set(filter_repo_objects(FILES, allow_patterns=download._WANTED))
    assert {Path(name).suffix for name in kept} == {".json", ".model", ".safetensors"} and len(kept) == 4


def test_what_the_cache_holds_is_not_fetched_again(tmp_path):
    assert download.bytes_to_fetch(entries(), tmp_path) == WANTED
    numbers = list(FILES)
    (tmp_path / f"{numbers.index(SHARD):064x}.incomplete").write_bytes(b"half")
    assert download.bytes_to_fetch(entries(), tmp_path) == WANTED
    (tmp_path / f"{numbers.index(SHARD):064x}").touch()
    (tmp_path / f"{numbers.index('model_index.json'):040x}").touch()
    assert download.bytes_to_fetch(entries(), tmp_path) == 4_500_000 + 700


def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_fetched(tmp_path):
    cache = tmp_path / "not" / "made" / "yet"
    free = shutil.disk_usage(tmp_path).free
    download._require_room(cache, "owner/name", free // 2)
    with pytest.raises(ExportError, match=rf"owner/name needs .* GB more and {tmp_path} has .* GB free: make room.*HF_HOME"):
        download._require_room(cache, "owner/name", 2 * free)


def test_without_a_connection_it_says_what_to_do(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: a connection is refused at once
        environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        code = "from export.checkpoint.reading import resolve; resolve('owner/name')"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "ExportError: cannot download owner/name (" in last and "run it again to go on" in last and "--checkpoint" in last
