"""Artifacts of a tiny MAGI-1 with random weights: what serving does with them does not depend on what they know."""

from pathlib import Path

from safetensors.torch import save_file

from tests.families.magi1.chunk_artifact import write_chunk_artifact
from tests.families.magi1.tiny import tiny_pipeline
from videosdgx.artifacts import CONFIG, MANIFEST, PIPELINE, Manifest, Runtime, artifact_dir, seal
from videosdgx.families import FAMILIES
from videosdgx.families.magi1.generate import NULL_CAPTION, NULL_CAPTION_FILE

SPEC = FAMILIES["magi1"]
LATENT_SIDE = 8  # 64 pixels


def write_magi1_home(home: Path) -> None:
    """Everything that `videosdgx serve --family magi1` needs, for clips of 64 x 64."""
    pipeline = tiny_pipeline(split_prompts=True)

    def precision(component: str) -> str:
        return CONFIG if component == PIPELINE else SPEC.component(component).served("cpu", SPEC.default_precision)[-1]

    def directory(component: str) -> Path:
        path = artifact_dir(home, "magi1", "demo", component, precision(component), "cpu")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def manifest(component: str, runtime: Runtime) -> Manifest:
        return Manifest(
            family="magi1", variant="demo", component=component, precision=precision(component), target="cpu",
            runtime=runtime, versions={}, source="random weights",
        )  # fmt: skip

    pipeline.text_encoder.save_pretrained(directory("text_encoder"))
    pipeline.vae.save_pretrained(directory("vae"))
    weightless = directory(PIPELINE)
    pipeline.tokenizer.save_pretrained(weightless / "tokenizer")
    pipeline.transformer.save_config(weightless / "transformer")
    pipeline.vae.save_config(weightless / "vae")
    pipeline.special_tokens.save_pretrained(weightless / "special_tokens")
    table = pipeline.transformer.y_embedder.null_caption_embedding.detach().contiguous()
    save_file({NULL_CAPTION: table}, weightless / "transformer" / NULL_CAPTION_FILE)
    for component, runtime in (("text_encoder", "torch"), ("vae", "torch"), (PIPELINE, "none")):
        seal(directory(component), manifest(component, runtime))
    graphs = directory("transformer")
    written = write_chunk_artifact(graphs, pipeline.transformer, 6, LATENT_SIDE, LATENT_SIDE)
    (graphs / MANIFEST).unlink()
    seal(graphs, manifest("transformer", "onnxruntime").model_copy(update={"inputs": written.inputs}))
