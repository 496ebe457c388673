import numpy as np
import onnx
import pytest
from onnx import parser

from videosdgx.artifacts import ArtifactError, Manifest, TensorSpec, seal
from videosdgx.engines.engine import open_engine

MANIFEST = Manifest(
    family="f",
    variant="v",
    component="c",
    precision="fp16",
    target="cpu",
    runtime="onnxruntime",
    versions={},
    source="test",
    inputs=[TensorSpec(name="x", dtype="float32", shape=["batch", 2])],
    outputs=[TensorSpec(name="y", dtype="float32", shape=["batch", 2])],
)
DOUBLE = '<ir_version: 8, opset_import: ["" : 20]> double (float[batch, 2] x) => (float[batch, 2] y) { y = Add (x, x) }'


def test_runs_and_refuses_and_closes(tmp_path):
    onnx.save(parser.parse_model(DOUBLE), tmp_path / "model.onnx")
    seal(tmp_path, MANIFEST)
    engine = open_engine(tmp_path, threads=1)
    assert np.array_equal(engine.run({"x": np.ones((3, 2), "float32")})["y"], np.full((3, 2), 2, "float32"))
    with pytest.raises(ValueError, match=r"input x has shape \[3, 5\], this engine takes \[batch, 2\]"):
        engine.run({"x": np.ones((3, 5), "float32")})
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.run({"x": np.ones((3, 2), "float32")})


def test_a_model_that_is_none_is_an_artifact_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    seal(tmp_path, MANIFEST)
    with pytest.raises(ArtifactError, match="cannot be loaded by ONNX Runtime"):
        open_engine(tmp_path)


def test_what_the_caller_has_verified_is_not_verified_again(tmp_path, monkeypatch):
    onnx.save(parser.parse_model(DOUBLE), tmp_path / "model.onnx")
    manifest = seal(tmp_path, MANIFEST)
    monkeypatch.delattr("videosdgx.engines.engine.verify")
    assert open_engine(tmp_path, manifest).manifest is manifest


def test_changed_bytes_are_refused(tmp_path):
    onnx.save(parser.parse_model(DOUBLE), tmp_path / "model.onnx")
    seal(tmp_path, MANIFEST)
    with (tmp_path / "model.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(ArtifactError, match="SHA-256"):
        open_engine(tmp_path)
