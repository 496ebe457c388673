"""An export from checkpoint to artifact, read from top to bottom: the stages, in their order, for the engines of any recipe."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from export.check import blocks, whole
from export.checkpoint import stored
from export.compile import COPIES_OF_WEIGHTS, REVISION, compile_engine
from export.quantize.linears import Dtypes
from export.run.components import export_component, export_pipeline
from export.run.errors import require_memory
from export.run.job import CPU_DTYPES, Job, Settings, note
from export.run.progress import Report
from export.run.recipe import EngineFiles, Recipe
from export.run.stages import digest, place
from export.run.versions import versions
from videosdgx import artifacts
from videosdgx.artifacts import Calibration, Manifest, Memory, Profile


def export(recipe: Recipe, settings: Settings, report: Report) -> Path:
    """Do what is not done yet and return the directory of the engine's artifact.

    Raises:
        ExportError: the checkpoint is not usable, the compiler refuses a graph, or the result is below the family's bars.
    """
    job = Job(recipe, settings, report)
    torch.set_num_threads(job.threads or torch.get_num_threads())
    with report.step("checkpoint") as step:
        step.note(prepare(job))
    if is_current(job) and not settings.fresh:
        report.console.print(f"already there, made from the same settings: {job.directory}", soft_wrap=True)
        return job.directory
    with job.workshop.locked():
        accuracy, graph = measure(job)
        write_artifact(job, accuracy, graph)
    return job.directory


def prepare(job: Job) -> str:
    """Find the checkpoint; with a main engine, export the parts that are beside it. Says what was done."""
    if job.checkpoint is None:
        return "random weights: no checkpoint is read"
    stored.shards_of(job.checkpoint / job.component)
    if not job.recipe.is_main:
        return job.source.origin
    settings, recipe = job.settings, job.recipe
    where = (settings.home, job.checkpoint, job.spec, settings.variant)
    made = [export_pipeline(*where, settings.target, job.source.origin, recipe.folders, recipe.pipeline_files(job))]
    others = [name for name, part in job.spec.components.items() if part.torch]
    made += [export_component(*where, name, settings.target, job.source.origin) for name in others]
    return f"{job.source.origin}: {sum(made)} of {len(made)} parts beside the {job.component} written"


def is_current(job: Job) -> bool:
    """Whether the artifact is there, whole, and made from the same settings with at least as many clips compared."""
    wanted = job.fingerprint()
    try:
        found = artifacts.verify(job.directory)
    except artifacts.ArtifactError:
        return False
    enough = not (job.is_demo and job.recipe.whole) or found.accuracy.get("clips", 0) >= job.settings.clips
    return found.recipe == wanted and enough


def measure(job: Job) -> tuple[dict[str, float], Path]:
    """Calibrate, write the graph that is shipped or compiled, verify: the accuracy, and the graph's directory."""
    recipe = job.recipe
    if recipe.check is not None:
        graph = write_graph(job, {}, job.shipped_dtypes)
        with job.report.step("verify") as step:
            accuracy = recipe.check(job)
            step.note(", ".join(f"{name} {value}" for name, value in accuracy.items()))
        job.require(accuracy)
        return accuracy, graph
    if not job.is_demo:
        maxima, given = blocks.calibrate(job)
        graph = write_graph(job, maxima, job.shipped_dtypes)
        return blocks.verify(job, maxima, given), graph
    maxima = whole.calibrate(job)
    # Verified for both targets: this graph has the weights, scales and roundings that the compiled one has.
    graph = write_graph(job, maxima, CPU_DTYPES)
    inputs, outputs = recipe.inputs_and_outputs(job, CPU_DTYPES)
    served = manifest(job, {}, None, []).model_copy(update={"inputs": inputs, "outputs": outputs})
    accuracy = whole.verify(job, graph, served, maxima)
    if job.settings.target != "cpu":
        graph = write_graph(job, maxima, job.gpu_dtypes)
        accuracy |= whole.verify_half(job, graph)
    return accuracy, graph


def write_graph(job: Job, maxima: Mapping[str, float], dtypes: Dtypes) -> Path:
    """The directory of the quantized ONNX of all engines, for ONNX Runtime and for the compiler."""
    facts = {
        "revision": job.recipe.revision,
        "checkpoint": job.source.digest,
        "layers": job.source.num_layers,
        "formats": job.formats,
        "fp8_attention": job.fp8_attention,
        "maxima": maxima,
        "dtypes": [str(dtypes.compute), str(dtypes.storage)],
        "versions": versions("torch", "onnx", "onnxscript"),
    }
    with job.report.step("graph") as step:

        def build(directory: Path) -> None:
            job.recipe.write(directory, job, dtypes, maxima, step)

        directory, known = job.workshop.stage("graph", facts, build, resumable=True)
        size = sum((directory / engine.files.data).stat().st_size for engine in job.recipe.engines(job))
        step.note(note(f"{len(job.formats)} layers in {job.settings.precision}, {size / 1e6:.1f} MB", known))
    return directory


def write_artifact(job: Job, accuracy: dict[str, float], graph: Path) -> None:
    """Compile the graphs, or take them as they are for ONNX Runtime, and put the artifact in its place, whole."""
    files, memory, profiles = compile_all(job, graph) if job.settings.target != "cpu" else _for_cpu(job, graph)
    with artifacts.building(job.directory) as partial:
        for name, path in files.items():
            place(path, partial / name)
        (partial / "config.json").write_text(json.dumps(job.source.exported_content, indent=2, sort_keys=True) + "\n")
        artifacts.seal(partial, manifest(job, accuracy, memory, profiles))


def _for_cpu(job: Job, graph: Path) -> tuple[dict[str, Path], Memory, list[Profile]]:
    """The files of an artifact for ONNX Runtime, and their memory."""
    engines = job.recipe.engines(job)
    size = sum((graph / engine.files.data).stat().st_size for engine in engines)
    memory = Memory(weights_bytes=size, source="size of the weights' file; ONNX Runtime unpacks them at load")
    names = [name for engine in engines for name in (engine.files.model, engine.files.data)]
    return {name: graph / name for name in names}, memory, []


def compile_all(job: Job, graph: Path) -> tuple[dict[str, Path], Memory, list[Profile]]:
    """The compiled plans by name, the memory that the compiler reports, and the first engine's profiles."""
    main, *others = job.recipe.engines(job)
    plans, reports = {}, []
    for engine in (main, *others):
        directory, per_profile = _compile_one(job, graph, engine, is_first=engine is main)
        plans[engine.plan] = directory / engine.plan
        reports.append({profile.name: one for profile, one in zip(engine.profiles, per_profile, strict=True)})
    weights = sum(next(iter(report.values())).weights_bytes for report in reports)
    # Engines run one after the other: what counts is the larger one of those that take the same profile.
    activations = {
        profile.name: max(report[profile.name].activation_bytes or 0 for report in reports if profile.name in report)
        for profile in main.profiles
    }
    activation = max(activations.values())
    source, beside = next(iter(reports[0].values())).source, 0
    if job.recipe.buffers is not None:
        beside, what = job.recipe.buffers(job)
        source = f"{source}; the peak adds {beside} bytes of {what}"
    memory = Memory(weights_bytes=weights, activation_bytes=activation, peak_bytes=weights + activation + beside, source=source)
    profiles = [profile.model_copy(update={"activation_bytes": activations[profile.name]}) for profile in main.profiles]
    return plans, memory, profiles


def _compile_one(job: Job, graph: Path, engine: EngineFiles, is_first: bool) -> tuple[Path, list[Memory]]:
    compiler = job.settings.compiler
    held = (graph / engine.files.data).stat().st_size
    facts: dict[str, Any] = {
        "revision": job.recipe.revision,
        "graph": graph.name,
        "profiles": [profile.model_dump(exclude={"cache_bytes"}) for profile in engine.profiles],
        "versions": versions(compiler),
        "compile": REVISION,
    }
    # A stage that makes the only engine there is keeps the name that it always had.
    if not is_first:
        facts["plan"] = engine.plan
    peaks: list[int] = []
    with job.report.step("compile", 2) as step:

        def build(directory: Path) -> None:
            kept = f"free some, rehearse with --layers, or go on where there is more; the finished ONNX is kept in {graph}"
            require_memory(f"to compile {held / 1e9:.1f} GB of weights", int(COPIES_OF_WEIGHTS * held), kept)
            where = (graph / engine.files.engine, directory / engine.plan)
            compiled = compile_engine(*where, engine.profiles, compiler, step.advance, peaks.append)
            (directory / "memory.json").write_text(json.dumps([one.model_dump() for one in compiled]))

        directory, known = job.workshop.stage("engine", facts, build)
        per_profile = [Memory(**one) for one in json.loads((directory / "memory.json").read_bytes())]
        largest = max(one.activation_bytes or 0 for one in per_profile)
        said = [f"weights {per_profile[0].weights_bytes / 1e6:.1f} MB, activations {largest / 1e6:.1f} MB"]
        said += [f"the compiler took {peak / 1e9:.2f} GB" for peak in peaks]
        step.note(note(", ".join(said), known))
    return directory, per_profile


def manifest(job: Job, accuracy: dict[str, float], memory: Memory | None, profiles: list[Profile]) -> Manifest:
    """The manifest of the engine's artifact, without its files."""
    settings, recipe = job.settings, job.recipe
    inputs, outputs = recipe.inputs_and_outputs(job, job.shipped_dtypes)
    policy = recipe.policy.kept_higher(job.config, settings.precision, job.gpu_dtypes.compute)
    if job.fp8_attention:
        kind = job.fp8_attention[0].rpartition(".")[2]
        policy |= {kind: f"fp8 in {len(job.fp8_attention)} blocks: query, key, value and probabilities"}
    return Manifest(
        family=job.spec.name,
        variant=settings.variant,
        component=job.component,
        precision=settings.precision,
        target=settings.target,
        runtime="onnxruntime" if settings.target == "cpu" else settings.compiler,  # type: ignore[arg-type]
        versions=job.versions(),
        source=f"{job.source.origin}, {job.component} sha256 {job.source.digest[:16]}",
        recipe=job.fingerprint(),
        random_weights=job.source.random,
        policy=policy,
        loras=job.source.adapters,
        few_step=job.few_step,
        inputs=inputs,
        profiles=profiles,
        outputs=outputs,
        calibration=_calibration(job) if job.wanted_maxima else None,
        accuracy=accuracy,
        memory=memory,
        remarks=remarks(job),
    )


def _calibration(job: Job) -> Calibration:
    """What the scales were collected on."""
    prompts = job.calibration_prompts
    if job.is_demo or job.recipe.blocks is None:
        steps = job.variant.num_inference_steps
    else:
        steps = job.recipe.blocks.random_steps if job.source.random else job.recipe.blocks.steps
    return Calibration(prompts=len(prompts), steps=steps, sha256=digest({"prompts": prompts}))


def remarks(job: Job) -> list[str]:
    """What a person must know before using the artifact."""
    found = []
    if job.source.random:
        found.append("random weights, drawn from a seed: for rehearsal and planning, it makes no videos")
    if job.settings.layers is not None:
        count = job.source.content["num_layers"]
        found.append(f"rehearsal: the first {job.source.num_layers} of {count} blocks, at full width")
    if job.recipe.blocks is not None and not job.is_demo:
        if job.formats:
            found.append("scales from " + ("seeded noise" if job.source.random else "small, short runs on a CPU"))
        found.append("weights were read, quantized and written block by block")
    if job.recipe.check is None and job.settings.target != "cpu":
        found.append("compiled whole, with all weights; checked is the graph on ONNX Runtime; the engine never ran")
    return found + job.recipe.remarks(job)
