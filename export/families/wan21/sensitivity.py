"""Which of Wan 2.1's layers cost the most accuracy when quantized: `python -m export.families.wan21.sensitivity --help`."""

from pathlib import Path

import numpy as np
import torch
import typer
from diffusers import WanPipeline
from torch import nn

from export.check.accuracy import snr_db
from export.check.sensitivity import Family, Subject, command
from export.checkpoint import reading
from export.families.wan21 import policy
from export.families.wan21.lowered import WanConfig
from export.families.wan21.pipeline import load_pipeline, load_transformer, make_clips, recorded
from export.families.wan21.prompts import calibration_prompts, verification_prompts
from export.families.wan21.verify import SIGMAS
from export.quantize.calibration import input_maxima
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.spec import SPEC

Call = tuple[dict[str, np.ndarray], np.ndarray]


def split(name: str) -> tuple[str, str]:
    """Block and kind of a layer: `blocks.0`, `attn1.to_q`."""
    _, index, kind = name.split(".", 2)
    return f"blocks.{index}", kind


@torch.inference_mode()
def snr(model: nn.Module, calls: list[Call]) -> float:
    """Mean SNR (dB) of the model's velocity over `calls`."""
    values = []
    for inputs, velocity in calls:
        named = {name: torch.from_numpy(array) for name, array in inputs.items()}
        values.append(snr_db(model(**named, return_dict=False)[0].numpy(), velocity))
    return float(np.mean(values))


def record(pipe: WanPipeline, prompts: list[str], variant: Variant) -> list[Call]:
    """(inputs, velocity) of the unquantized pipeline's transformer at each of `SIGMAS`, for all prompts at once."""
    calls: list[Call] = []
    with recorded(pipe.transformer, calls):
        make_clips(pipe, prompts, variant, lambda _: None)
    return [min(calls, key=lambda call: abs(float(call[0]["timestep"][0]) - 1000 * sigma)) for sigma in SIGMAS]


def _maxima(pipe: WanPipeline, config: WanConfig, variant: Variant) -> dict[str, float]:
    """The scales' maxima as an export collects them; changes the pipeline's transformer."""
    prompts = calibration_prompts(variant.name)

    def run() -> None:
        make_clips(pipe, prompts, variant, lambda _: None)

    return input_maxima(pipe.transformer, policy.all_linears(config), run)


def locate(checkpoint: str | None, variant: Variant) -> Path:
    """The directory of a checkpoint."""
    return reading.resolve(checkpoint or variant.checkpoint)


def prepare(source: Path, variant: Variant, prompts: int) -> Subject:
    """Load the checkpoint in `source` (diffusers' layout) and run it on as many prompts.

    Raises:
        ExportError: the checkpoint is not usable.
    """
    config = WanConfig.from_dict(reading.config(source / "transformer"))
    pipe = load_pipeline(source, variant)
    calls = record(pipe, verification_prompts(variant.name, prompts), variant)
    maxima = _maxima(pipe, config, variant)
    del pipe  # the calibrated transformer has served
    return Subject(load_transformer(source / "transformer"), maxima, lambda model: snr(model, calls))


FAMILY = Family(
    package="wan21",
    title="Wan 2.1",
    spec=SPEC,
    points="the noise levels " + ", ".join(f"{sigma:g}" for sigma in SIGMAS),
    locate=locate,
    prepare=prepare,
    split=split,
)

if __name__ == "__main__":
    typer.run(command(FAMILY))
