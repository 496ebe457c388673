"""The command that compares with a folder of reference tensors, on a folder made here."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from videosdgx.families.magi1.network.embeddings import timestep_embedding


def run(folder: Path, *names: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "tests.reference", str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[3])
    return done.returncode, done.stdout.splitlines()


def test_one_line_a_case_and_what_is_over_its_limit_fails(tmp_path: Path) -> None:
    time = torch.tensor([0.0, 0.3, 8.0])
    cases = []
    for name, kind, fault in (
        ("right", "timestep_embedding", 0.0),
        ("wrong", "timestep_embedding", 0.01),
        ("new", "novel", 0.0),
    ):
        cases.append({"name": name, "kind": kind, "file": f"{name}.safetensors"})
        save_file({"t": time, "embedding": timestep_embedding(time) + fault}, tmp_path / f"{name}.safetensors")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "models": {}, "cases": cases}))
    code, (right, wrong, new, last) = run(tmp_path)
    assert code == 1 and last == "2 failed"
    assert right.startswith("ok     right (timestep_embedding): error 0.00e+00, limit 2e-04")
    assert wrong.startswith("FAILED wrong (timestep_embedding): error 1.00e-02, limit 2e-04")
    assert new.startswith("FAILED new (novel): nothing compares this kind")
    assert run(tmp_path, "right") == (0, [right, "all within their limits"])
