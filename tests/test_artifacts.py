"""Artifacts: only what is whole and unchanged loads; a failed build leaves nothing that looks whole."""

import os
from pathlib import Path

import pytest

from videosdgx.artifacts import ArtifactError, FewStep, Manifest, building, read_manifest, seal, verify, write_atomically

MANIFEST = Manifest(
    family="wan21", variant="demo", component="vae", precision="fp32", target="cpu", runtime="torch", versions={}, source="test"
)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    directory = tmp_path / "vae" / "fp32-cpu"
    with building(directory) as partial:
        (partial / "sub").mkdir()
        (partial / "weights.safetensors").write_bytes(b"w" * 1000)
        (partial / "sub" / "config.json").write_text("{}")
        seal(partial, MANIFEST)
    return directory


def test_a_sealed_artifact_verifies_and_names_every_file(artifact: Path) -> None:
    manifest = verify(artifact)
    assert set(manifest.files) == {"weights.safetensors", "sub/config.json"}
    assert manifest.files["weights.safetensors"].bytes == 1000


def test_what_most_have_nothing_to_say_of_is_not_in_the_file(tmp_path: Path) -> None:
    """So artifacts from before there was such a field keep their bytes, and their digest."""
    with building(tmp_path / "plain") as partial:
        seal(partial, MANIFEST)
    assert "few_step" not in (tmp_path / "plain" / "manifest.json").read_text()
    few = FewStep(sampler="renoise", steps=4, shift=5.0)
    with building(tmp_path / "few") as partial:
        sealed = seal(partial, MANIFEST.model_copy(update={"few_step": few}))
    assert read_manifest(tmp_path / "few") == sealed and sealed.few_step == few
    text = (tmp_path / "few" / "manifest.json").read_text()
    (tmp_path / "few" / "manifest.json").write_text(text.replace("renoise", "unipc"))
    with pytest.raises(ArtifactError, match="not a valid manifest"):
        read_manifest(tmp_path / "few")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda d: (d / "weights.safetensors").write_bytes(b"w" * 999), "has 999 bytes, its manifest says 1000"),
        (lambda d: (d / "weights.safetensors").write_bytes(b"v" + b"w" * 999), "has SHA-256"),
        (lambda d: (d / "weights.safetensors").unlink(), "listed in manifest.json but missing"),
        (lambda d: (d / "extra.py").write_text("x"), "not listed"),
        (lambda d: (d / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1}'), "not a valid manifest"),
        (lambda d: (d / "manifest.json").write_bytes(b"\x80\x02"), "not a valid manifest"),
    ],
)
def test_anything_changed_is_refused_with_its_name(artifact: Path, harm: object, words: str) -> None:
    harm(artifact)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=words):
        verify(artifact)


def test_a_link_out_of_the_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (artifact / "weights.safetensors").rename(outside)
    (artifact / "weights.safetensors").symlink_to(outside)
    with pytest.raises(ArtifactError, match="points outside"):
        verify(artifact)


def test_a_failed_build_leaves_the_old_artifact_and_no_partial_one(artifact: Path) -> None:
    before = read_manifest(artifact)
    with pytest.raises(OSError, match="disk"), building(artifact) as partial:
        (partial / "weights.safetensors").write_bytes(b"half")
        raise OSError("disk full")
    assert verify(artifact) == before
    assert os.listdir(artifact.parent) == [artifact.name]


def test_a_build_that_was_never_sealed_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError), building(tmp_path / "x") as partial:
        (partial / "weights").write_bytes(b"1")
    assert not (tmp_path / "x").exists()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
