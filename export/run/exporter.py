"""An export from checkpoint to artifacts, stage by stage; what a family has of its own is abstract here."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from export.check.blockwise import Blockwise
from export.check.whole import WholePipeline
from export.checkpoint import reading
from export.compile import COPIES_OF_WEIGHTS, REVISION, compile_engine
from export.quantize.linears import Dtypes
from export.run.components import export_component, export_pipeline
from export.run.errors import require_memory
from export.run.job import CPU_DTYPES, Job, note
from export.run.progress import Step
from export.run.stages import place
from export.run.versions import versions
from videosdgx import artifacts
from videosdgx.artifacts import Calibration, Manifest, Memory, Profile, TensorSpec


@dataclass(frozen=True)
class EngineFiles:
    """A graph to compile: the file of the graph, of the plan, of its weights, and the shapes that it is compiled for."""

    graph: str
    plan: str
    data: str
    profiles: list[Profile]


class Export(ABC):
    """One export. `run` does it all; the other methods are its stages, in order.

    `folders` of the checkpoint go into the weightless pipeline artifact; those that end with a question mark if they are there.
    `cpu_files` are the files of an artifact for ONNX Runtime.
    """

    folders: tuple[str, ...]
    cpu_files: tuple[str, ...]

    def __init__(self, job: Job) -> None:
        self.job, self.settings, self.report = job, job.settings, job.report

    @abstractmethod
    def engines(self) -> list[EngineFiles]:
        """What is compiled; the first is the one that runs at every step, whose profiles the manifest shows."""

    @abstractmethod
    def write(self, directory: Path, dtypes: Dtypes, maxima: Mapping[str, float], step: Step) -> None:
        """Fill a directory with the quantized ONNX."""

    @abstractmethod
    def whole(self, root: Path, manifest: Manifest) -> WholePipeline:
        """The stages that look at the numbers of a checkpoint in `root` that makes whole clips here."""

    @property
    @abstractmethod
    def blocks(self) -> Blockwise:
        """The stages that look at the numbers of a checkpoint that is too large to hold."""

    @abstractmethod
    def inputs_and_outputs(self, dtypes: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Of the engine that runs at every step, if it computes in `dtypes`."""

    @abstractmethod
    def policy(self) -> dict[str, str]:
        """Which parts are not in the export's own format, and why."""

    @abstractmethod
    def calibration(self) -> Calibration | None:
        """What the scales were collected on."""

    def pipeline_extra(self) -> Mapping[str, bytes]:
        """Further files of the weightless pipeline artifact."""
        return {}

    def remarks(self) -> list[str]:
        """What a person must know before using the artifact."""
        job = self.job
        remarks = []
        if job.source.random:
            remarks.append("random weights, drawn from a seed: for rehearsal and planning, it makes no videos")
        if self.settings.layers is not None:
            whole = job.source.content["num_layers"]
            remarks.append(f"rehearsal: the first {job.num_layers} of {whole} blocks, at full width")
        if not job.is_demo:
            if job.formats:
                remarks.append("scales from " + ("seeded noise" if job.source.random else "small, short runs on a CPU"))
            remarks.append("weights were read, quantized and written block by block")
        if self.settings.target == "sm121":
            remarks.append("compiled whole, with all weights; checked is the graph on ONNX Runtime; the engine never ran")
        return remarks

    def run(self) -> Path:
        """Do what is not done yet and return the transformer's artifact directory.

        Raises:
            ExportError: the checkpoint is not usable, or the result is below the family's bars.
        """
        job = self.job
        torch.set_num_threads(job.threads or torch.get_num_threads())
        with self.report.step("checkpoint") as step:
            step.note(self._parts_beside() if job.checkpoint else "random weights: no checkpoint is read")
        if not self.settings.fresh and self._is_current():
            self.report.console.print(f"already there, made from the same settings: {job.directory}", soft_wrap=True)
            return job.directory
        with job.workshop.locked():
            self._build(job.directory)
        return job.directory

    def _parts_beside(self) -> str:
        """Export what the transformer needs beside it, and say how much of it was new."""
        job, settings = self.job, self.settings
        assert job.checkpoint is not None
        reading.shards(job.checkpoint / "transformer")
        where = (settings.home, job.checkpoint, job.spec.name, settings.variant)
        target, origin = settings.target, job.source.origin
        made = [export_pipeline(*where, target, origin, self.folders, self.pipeline_extra())]
        made += [export_component(*where, part, target, origin) for part in ("text_encoder", "vae")]
        return f"{origin}: {sum(made)} of {len(made)} parts beside the transformer written"

    def _is_current(self) -> bool:
        try:
            manifest = artifacts.verify(self.job.directory)
        except artifacts.ArtifactError:
            return False
        enough = not self.job.is_demo or manifest.accuracy.get("clips", 0) >= self.settings.clips
        return manifest.recipe == self.job.recipe() and enough

    def _build(self, directory: Path) -> None:
        job = self.job
        accuracy, graph = self.check()
        files, memory, shapes = self._finish(graph)
        with artifacts.building(directory) as partial:
            for name, path in files.items():
                place(path, partial / name)
            content = job.source.content | {"num_layers": job.num_layers}
            (partial / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
            artifacts.seal(partial, self.manifest(accuracy, memory, shapes))

    def check(self) -> tuple[dict[str, float], Path]:
        """Calibrate, write the graph that is shipped or compiled, verify: the accuracy, and the graph's directory."""
        job = self.job
        if not job.is_demo:
            maxima = self.blocks.calibrate()
            graph = self.graph(maxima, job.shipped_dtypes)
            return self.blocks.verify(maxima), graph
        assert job.checkpoint is not None
        inputs, outputs = self.inputs_and_outputs(CPU_DTYPES)
        whole = self.whole(
            job.checkpoint, self.manifest({}, None, []).model_copy(update={"inputs": inputs, "outputs": outputs})
        )
        maxima = whole.calibrate()
        # Verified for both targets: this graph has the weights, scales and roundings that the compiled one has.
        graph = self.graph(maxima, CPU_DTYPES)
        accuracy = whole.verify(graph, maxima)
        if self.settings.target != "cpu":
            graph = self.graph(maxima, job.gpu_dtypes)
            accuracy |= whole.verify_fp16(graph)
        return accuracy, graph

    def _finish(self, graph: Path) -> tuple[dict[str, Path], Memory, list[Profile]]:
        """The files of the artifact, their memory, and the shapes that they take."""
        if self.settings.target == "cpu":
            size = sum((graph / engine.data).stat().st_size for engine in self.engines())
            memory = Memory(weights_bytes=size, source="size of the weights' file; ONNX Runtime unpacks them at load")
            return {name: graph / name for name in self.cpu_files}, memory, []
        return self.compile(graph)

    def graph(self, maxima: dict[str, float], dtypes: Dtypes) -> Path:
        """The directory of the quantized ONNX (see `write`)."""
        job = self.job
        facts = {
            "revision": job.revision,
            "checkpoint": job.digests["transformer"],
            "layers": job.num_layers,
            "formats": job.formats,
            "fp8_attention": job.fp8_attention,
            "maxima": maxima,
            "dtypes": [str(dtypes.compute), str(dtypes.storage)],
            "versions": versions("torch", "onnx", "onnxscript"),
        }
        with self.report.step("graph") as step:

            def build(directory: Path) -> None:
                self.write(directory, dtypes, maxima, step)

            directory, known = job.workshop.stage("graph", facts, build, resumable=True)
            size = sum((directory / engine.data).stat().st_size for engine in self.engines())
            step.note(note(f"{len(job.formats)} layers in {self.settings.precision}, {size / 1e6:.1f} MB", known))
        return directory

    def compile(self, graph: Path) -> tuple[dict[str, Path], Memory, list[Profile]]:
        """The compiled plans by name, the memory that the compiler reports, and the first engine's profiles."""
        plans, reports = {}, []
        for engine in self.engines():
            directory, per_profile = self._compile_one(graph, engine)
            plans[engine.plan] = directory / engine.plan
            reports.append(per_profile)
        main, *others = reports
        weights = main[0].weights_bytes + sum(other[0].weights_bytes for other in others)
        activation = max(one.activation_bytes or 0 for one in main)
        memory = Memory(
            weights_bytes=weights, activation_bytes=activation, peak_bytes=weights + activation, source=main[0].source
        )
        measured = [
            profile.model_copy(update={"activation_bytes": one.activation_bytes})
            for profile, one in zip(self.engines()[0].profiles, main, strict=True)
        ]
        return plans, memory, measured

    def _compile_one(self, graph: Path, engine: EngineFiles) -> tuple[Path, list[Memory]]:
        job, compiler = self.job, self.settings.compiler
        held = (graph / engine.data).stat().st_size
        facts: dict[str, Any] = {
            "revision": job.revision,
            "graph": graph.name,
            "profiles": [profile.model_dump(exclude={"cache_bytes"}) for profile in engine.profiles],
            "versions": versions(compiler),
            "compile": REVISION,
        }
        # A stage that makes the only engine there is keeps the name that it always had.
        if engine.plan != self.engines()[0].plan:
            facts["plan"] = engine.plan
        peaks: list[int] = []
        with self.report.step("compile", 2) as step:

            def build(directory: Path) -> None:
                kept = f"free some, rehearse with --layers, or go on where there is more; the finished ONNX is kept in {graph}"
                require_memory(f"to compile {held / 1e9:.1f} GB of weights", int(COPIES_OF_WEIGHTS * held), kept)
                where = (graph / engine.graph, directory / engine.plan)
                compiled = compile_engine(*where, engine.profiles, compiler, step.advance, peaks.append)
                (directory / "memory.json").write_text(json.dumps([one.model_dump() for one in compiled]))

            directory, known = job.workshop.stage("engine", facts, build)
            per_profile = [Memory(**one) for one in json.loads((directory / "memory.json").read_bytes())]
            largest = max(one.activation_bytes or 0 for one in per_profile)
            weights = per_profile[0].weights_bytes
            said = [f"the compiler took {peak / 1e9:.2f} GB" for peak in peaks]
            sizes = f"weights {weights / 1e6:.1f} MB, activations {largest / 1e6:.1f} MB"
            step.note(note(", ".join([sizes, *said]), known))
        return directory, per_profile

    def manifest(self, accuracy: dict[str, float], memory: Memory | None, shapes: list[Profile]) -> Manifest:
        """The manifest of the transformer's artifact, without its files."""
        job, settings = self.job, self.settings
        inputs, outputs = self.inputs_and_outputs(job.shipped_dtypes)
        return Manifest(
            family=job.spec.name,
            variant=settings.variant,
            component="transformer",
            precision=settings.precision,
            target=settings.target,
            runtime="onnxruntime" if settings.target == "cpu" else settings.compiler,  # type: ignore[arg-type]
            versions=job.versions(),
            source=f"{job.source.origin}, transformer sha256 {job.digests['transformer'][:16]}",
            recipe=job.recipe(),
            random_weights=job.source.random,
            policy=self.policy(),
            loras=job.source.adapters,
            inputs=inputs,
            profiles=shapes,
            outputs=outputs,
            calibration=self.calibration() if job.wanted_maxima else None,
            accuracy=accuracy,
            memory=memory,
            remarks=self.remarks(),
        )
