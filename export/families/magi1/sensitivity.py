"""Which of MAGI-1's layers cost the most accuracy when quantized: `python -m export.families.magi1.sensitivity --help`."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
import typer
from torch import nn

from export.check.accuracy import snr_db
from export.check.sensitivity import Family, Subject, command
from export.checkpoint import reading
from export.families.magi1 import official, policy
from export.families.magi1.config import MagiConfig
from export.families.magi1.pipeline import Call, load_pipeline, load_transformer, make_clips, recorded
from export.families.magi1.prompts import calibration_prompts, verification_prompts
from export.families.magi1.source import Source
from export.families.magi1.verify import TIMES, chunk_output, nearest
from export.quantize.calibration import input_maxima
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.spec import SPEC
from videosdgx.families.spec import Variant
from videosdgx.home import default_home


def split(name: str) -> tuple[str, str]:
    """Block and kind of a layer: `layers.0`, `linear_qkv.q`."""
    _, layers, index, _, kind = name.split(".", 4)
    return f"{layers}.{index}", kind


@torch.inference_mode()
def snr(model: nn.Module, calls: list[tuple[Call, np.ndarray]]) -> float:
    """Mean SNR (dB) of the velocity over chunks, whose text's keys and values the model makes from the features beside them."""
    magi = cast(MagiTransformer3DModel, model)
    values = []
    for (inputs, velocity), features in calls:
        text_kv = magi.encode_text(torch.from_numpy(features)).numpy()
        values.append(snr_db(chunk_output(magi, inputs | {graphs.TEXT_KV: text_kv}).numpy(), velocity))
    return float(np.mean(values))


def record(pipe: MagiPipeline, prompts: list[str], variant: Variant) -> list[tuple[Call, np.ndarray]]:
    """For each prompt, a chunk near each of `verify.TIMES` with its text's features."""
    found = []
    for prompt in prompts:
        chunks: list[Call] = []
        texts: list[Call] = []
        with recorded(pipe.transformer, chunks, texts):
            make_clips(pipe, [prompt], variant, lambda _: None)
        for time in TIMES:
            call = nearest(chunks, time)
            found.append((call, _features(texts, call[0][graphs.TEXT_KV])))
    return found


def _features(texts: list[Call], text_kv: np.ndarray) -> np.ndarray:
    """The features whose keys and values these are."""
    return next(given[graphs.ENCODER_HIDDEN_STATES] for given, made in texts if np.array_equal(made, text_kv))


def locate(checkpoint: str | None, variant: Variant) -> Path:
    """The directory of a checkpoint."""
    return official.resolve(checkpoint or variant.checkpoint, variant.name, default_home())


def prepare(source: Path, variant: Variant, prompts: int) -> Subject:
    """Load the checkpoint in `source` (diffusers' layout) and run it on as many prompts.

    Raises:
        ExportError: the checkpoint is not usable.
    """
    directory = source / "transformer"
    content = reading.config(directory)
    tensors = Source(source.name, directory, content).tensors
    pipe = load_pipeline(source, tensors)
    calls = record(pipe, verification_prompts(prompts), variant)
    layers = policy.all_linears(MagiConfig.from_dict(content))

    def run() -> None:
        make_clips(pipe, calibration_prompts(), variant, lambda _: None)

    maxima = input_maxima(pipe.transformer, layers, run)
    return Subject(load_transformer(directory, tensors), maxima, lambda model: snr(model, calls))


FAMILY = Family(
    package="magi1",
    title="MAGI-1",
    spec=SPEC,
    points="chunks with others before them at the times " + ", ".join(f"{time:g}" for time in TIMES),
    locate=locate,
    prepare=prepare,
    split=split,
)

if __name__ == "__main__":
    typer.run(command(FAMILY))
