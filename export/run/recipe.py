"""What a family hands over for the export of one of its engines: data and functions.

The stages themselves are written once: their order is in `export.run.exporter`, what they do with numbers in `export.check`.
`export/families/<family>/recipe.py` has the recipes of a family, by component.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from export.check.accuracy import Bar
from export.checkpoint import reading
from export.checkpoint.source import Network, Source
from export.graph.lowering import Build
from export.graph.tracing import Piece
from export.graph.writing import GraphFiles
from export.quantize.linears import Dtypes, Format
from videosdgx.artifacts import Manifest, Profile, TensorSpec
from videosdgx.families.spec import FamilySpec, Variant

if TYPE_CHECKING:
    from export.run.job import Job
    from export.run.progress import Step

Advance = Callable[[float], None]
Arrays = dict[str, np.ndarray]  # by the names that a graph's inputs have


@dataclass(frozen=True)
class EngineFiles:
    """One graph to compile: its files, the file of the plan, and the ranges of shapes that the plan takes."""

    files: GraphFiles
    plan: str
    profiles: list[Profile]


@dataclass(frozen=True)
class Policy:
    """Which layers of a network are quantized; `config` is the network's shape.

    Attributes:
        linears: (config) -> every layer that some precision quantizes: what a calibration has to cover.
        formats: (config, precision) -> format by layer; layers that are not named stay in fp16 or bf16.
        kept_higher: (config, precision, fp16 or bf16) -> what is in a higher format than the export's own, and why.
        bars: (precision) -> what an export has to reach.
        fp8_attentions: (config) -> the attentions whose products may be in FP8; None if the family has no such option.
    """

    linears: Callable[[Any], list[str]]
    formats: Callable[[Any, str], dict[str, Format]]
    kept_higher: Callable[[Any, str, torch.dtype], dict[str, str]]
    bars: Callable[[str], list[Bar]]
    fp8_attentions: Callable[[Any], list[str]] | None = None


@dataclass(frozen=True)
class FixedCall:
    """One call of the unquantized transformer: what a graph is given, and its first output. `figure` names the SNR of it."""

    figure: str
    files: GraphFiles
    inputs: Arrays
    output: np.ndarray


@dataclass(frozen=True)
class Velocity:
    """What a sensitivity is measured on: how a transformer is run, and the velocity of the unquantized one."""

    run: Callable[[nn.Module], np.ndarray]
    expected: np.ndarray


@dataclass(frozen=True)
class WholeClips:
    """How a checkpoint that is small enough to make whole clips here (a demo) is calibrated and verified.

    Attributes:
        calibration_prompts: (variant's name) -> what scales are collected on.
        verification_prompts: (variant's name, count) -> prompts of the clips that are compared.
        load: (checkpoint, variant, transformer's tensors or None: the files') -> the real pipeline, unquantized, in fp32.
        make_clips: (pipeline, prompts, variant, advance) -> fp32 0..1 [n, F, H, W, 3]; prompt i has seed i.
        fixed_calls: (pipeline, prompts, variant) -> some calls of its transformer, and the clips.
        in_half: (layer's name, layer) -> whether engines store its weight in fp16 where it is not quantized.
        forward: (transformer, a call's inputs) -> first output of the main graph.
        by_engine: (pipeline, folder of the graphs, manifest, threads) -> inside, the graphs stand for the transformer.
        velocities: (pipeline, prompts, variant) -> what sensitivities are measured on; `points` says which they are.
        split: (layer's name) -> those of its block and its kind.
        success: (clips, prompts) -> percent of the clips that show what was asked for; None if nobody judges them.
    """

    calibration_prompts: Callable[[str], list[str]]
    verification_prompts: Callable[[str, int], list[str]]
    load: Callable[[Path, Variant, Mapping[str, Tensor] | None], Any]
    make_clips: Callable[[Any, list[str], Variant, Advance], np.ndarray]
    fixed_calls: Callable[[Any, list[str], Variant], tuple[list[FixedCall], np.ndarray]]
    in_half: Callable[[str, nn.Module], bool]
    forward: Callable[[nn.Module, Arrays], Tensor]
    by_engine: Callable[[Any, Path, Manifest, int], AbstractContextManager[None]]
    velocities: Callable[[Any, list[str], Variant], list[Velocity]]
    points: str
    split: Callable[[str], tuple[str, str]]
    success: Callable[[np.ndarray, list[str]], float] | None = None


@dataclass(frozen=True)
class Blocks:
    """How a checkpoint that is too large to hold is calibrated and verified: layers are read as they run.

    Attributes:
        prompts: of the calibration of a real checkpoint, on `steps` noise levels each; `ticks` is how often `run_prompts`
            tells its progress.
        random_steps: noise levels that random weights see.
        random_blocks: so many random blocks are run, and stand for all: the first for the first, the last for the last.
        checked: (number of blocks) -> the indices of those that are compared.
        streamed: (source) -> the transformer in fp32, which holds a layer's weights only while that runs.
        layers: (transformer) -> its blocks.
        given: (positional arguments of a block) -> the inputs of its graph; None if this call is not one to keep.
        run_noise: (source, transformer) -> runs the transformer on seeded noise.
        run_prompts: (source, transformer, variant, prompts, advance) -> small, short runs of the real pipeline.
        block: (config) -> one block of the model itself.
        run_block: (block, the inputs of its graph) -> its output.
        piece: (config, build, index) -> the exported graph of a block.
        known_maxima: (source) -> what the checkpoint itself says its layers were calibrated for, which stands above our runs.
    """

    prompts: tuple[str, ...]
    steps: int
    ticks: int
    random_steps: int
    random_blocks: int
    checked: Callable[[int], list[int]]
    streamed: Callable[[Source], nn.Module]
    layers: Callable[[nn.Module], Sequence[nn.Module]]
    given: Callable[[tuple[Any, ...]], dict[str, Tensor] | None]
    run_noise: Callable[[Source, nn.Module], None]
    run_prompts: Callable[[Source, nn.Module, Variant, Sequence[str], Advance], None]
    block: Callable[[Any], nn.Module]
    run_block: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    piece: Callable[[Any, Build, int], Piece]
    known_maxima: Callable[[Source], Mapping[str, float]] = lambda source: {}


@dataclass(frozen=True)
class Recipe:
    """What the export of one component's engine has of its own.

    Attributes:
        spec, component: whose engine it is.
        revision: to be raised when the same settings give another result than before.
        network: how the weights are stored.
        policy: which layers are quantized.
        engines: (job) -> what is compiled; the first is the one whose profiles the manifest shows.
        write: (folder, job, dtypes, maxima, step) -> fills the folder with the quantized ONNX of all engines.
        inputs_and_outputs: (job, dtypes) -> those of the first engine, or of the component where the engines are its parts.
        whole, blocks: how the numbers of a demo, and of a published checkpoint, are looked at.
        check: (job) -> accuracy of an engine that is looked at in neither way.
        buffers: (job) -> bytes that the user of the engines holds beside them, and what they are; they count in the peak.
        few_step_shift: shift of the noise levels of weights that were distilled to a few steps; None: there are none of it.
        remarks: (job) -> what a person must know before using the artifact.
        locate: (checkpoint as given, variant's name, home) -> its directory in diffusers' layout; fetched if need be.
        folders: of the checkpoint, for the weightless pipeline artifact; with a question mark at the end: if it is there.
        pipeline_files: (job) -> further files of that artifact.
    """

    spec: FamilySpec
    component: str
    revision: int
    network: Network
    policy: Policy
    engines: Callable[["Job"], list[EngineFiles]]
    write: Callable[[Path, "Job", Dtypes, Mapping[str, float], "Step"], None]
    inputs_and_outputs: Callable[["Job", Dtypes], tuple[list[TensorSpec], list[TensorSpec]]]
    whole: WholeClips | None = None
    blocks: Blocks | None = None
    check: Callable[["Job"], dict[str, float]] | None = None
    buffers: Callable[["Job"], tuple[int, str]] | None = None
    few_step_shift: float | None = None
    remarks: Callable[["Job"], list[str]] = lambda job: []
    locate: Callable[[str, str, Path], Path] = lambda wanted, variant, home: reading.resolve(wanted)
    folders: tuple[str, ...] = ()
    pipeline_files: Callable[["Job"], Mapping[str, bytes]] = lambda job: {}

    @property
    def is_main(self) -> bool:
        """Whether the family cannot run without this engine: its export brings the other parts with it."""
        return not self.spec.component(self.component).torch
