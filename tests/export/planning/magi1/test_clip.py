"""Counts of MAGI-1 against torch's own counter, the specification's table, and the published sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from export.families.magi1 import policy
from export.families.magi1.config import MagiConfig
from export.planning.counting import count
from export.planning.magi1 import clip as magi1
from export.planning.magi1.torch_parts import decode_chunk, text_encoder, vae_bytes
from export.planning.magi1.transformer import Shape
from export.planning.work import Request
from tests.families.magi1.tiny import CONFIG, GATED
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.sampling.guidance import BASE_GUIDANCE, DISTILLED_GUIDANCE
from videosdgx.families.magi1.sampling.schedule import ChunkSchedule
from videosdgx.families.magi1.spec import SPEC
from videosdgx.home import CHECKOUT

# docs/specs/magi1.md, section 11: size of the latents, tokens a chunk, bytes a chunk's keys and values, PFLOP of one
# conditional evaluation of a full window, PFLOP of a 96-frame clip: base 64 and 32 steps, distilled 64, 16 and 8 steps.
TABLE = [
    ("4.5b", 90, 90, 12150, 1.69e9, 1.26, (164, 83, 72, 18, 9)),
    ("4.5b", 60, 104, 9360, 1.30e9, 0.82, (111, 56, 48, 12, 6)),
    ("24b", 90, 160, 21600, 4.25e9, 11.6, (1529, 769, 667, 170, 87)),
    ("24b", 90, 90, 12150, 2.39e9, 4.62, (669, 337, 288, 74, 38)),
    ("24b", 60, 104, 9360, 1.84e9, 3.13, (472, 237, 202, 52, 27)),
]
JOBS = (("base", 64), ("base", 32), ("distill", 64), ("distill", 16), ("distill", 8))
GUIDANCE = {"base": BASE_GUIDANCE, "distill": DISTILLED_GUIDANCE}


def request(variant: str, precision: str = "fp8", steps: int = 16, frames: int = 96, guided: bool = True) -> Request:
    own = SPEC.variants[variant]
    return Request("magi1", own, precision, own.width, own.height, frames, steps, guided)


@pytest.mark.parametrize("config", [CONFIG, GATED, GATED | {"distilled": True}], ids=["gelu", "gated", "distilled"])
@pytest.mark.parametrize("past", [0, 3])
def test_operations_of_a_chunk_are_those_that_torch_counts(config: dict[str, Any], past: int) -> None:
    shape = Shape(config)
    tokens, groups, width = shape.tokens(4, 8), config["num_query_groups"], 2 * config["attention_head_dim"]
    with torch.device("meta"):
        model = MagiTransformer3DModel(**config).requires_grad_(False)
        latents = torch.empty(1, model.latent_channels, 6, 4, 8)
        inputs = (latents, torch.empty(1), torch.empty(1, dtype=torch.bool), torch.empty(tokens, 3))
        text = torch.empty(2, 7, groups, width)
        before = [torch.empty(past * tokens, groups, width)] * 2
        step_size = torch.empty(1) if config.get("distilled") else None
        with FlopCounterMode(display=False) as counter:
            model.forward_chunk(*inputs, text, before, step_size)
    planned = sum(operation.flops for operation in shape.chunk_operations("fp16", tokens, {past: 1.0}, text_tokens=7))
    assert planned == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize(("size", "height", "width", "tokens", "cache", "window", "clips"), TABLE)
def test_the_table_of_the_specification(
    size: str, height: int, width: int, tokens: int, cache: float, window: float, clips: tuple[int, ...]
) -> None:
    base = magi1.shape(f"{size}-base")
    assert base.tokens(height, width) == tokens
    assert base.kept(tokens, 1).bytes == pytest.approx(cache, rel=0.005)
    full = [base.chunk_operations("fp16", tokens, {past: 1.0}) for past in (1, 2, 3, 4)]
    assert sum(operation.flops for one in full for operation in one) == pytest.approx(window * 1e15, rel=0.005)
    for (kind, steps), petaflops in zip(JOBS, clips, strict=True):
        shape = magi1.shape(f"{size}-{kind}")
        forwards = magi1.chunk_forwards(ChunkSchedule(steps, 4, 4), GUIDANCE[kind], every=True)
        runs = sum(forwards.values())
        mean = shape.chunk_operations("fp16", tokens, {past: number / runs for past, number in forwards.items()})
        total = runs * sum(operation.flops for operation in mean)
        assert total == pytest.approx(petaflops * 1e15, abs=0.51e15, rel=0.001)


def test_what_has_no_influence_is_not_run() -> None:
    schedule = ChunkSchedule(16, 4, 4)
    run, every = (sum(magi1.chunk_forwards(schedule, BASE_GUIDANCE, every=every).values()) for every in (False, True))
    # Each of 4 chunks has 16 updates of 3 evaluations, and 3 of them are refreshed in 2 evaluations.
    assert every == 4 * 16 * 3 + 3 * 2
    # The last quarter is not evaluated alone, nor with text when no other chunk is in work; nor is the refresh then.
    assert run == every - 4 * 4 - 4 - 1
    # Distilled: a second evaluation in the last quarter, but the first chunk has none before it.
    assert sum(magi1.chunk_forwards(schedule, DISTILLED_GUIDANCE).values()) == 4 * 16 + 3 + 3 * 4
    assert sum(magi1.chunk_forwards(schedule, BASE_GUIDANCE, guided=False).values()) == 4 * 16 + 3


@pytest.mark.parametrize(("variant", "bf16", "fp8"), [("4.5b-base", 8.96e9, 5.14e9), ("24b-base", 47.88e9, 26.47e9)])
def test_weights_are_as_large_as_published(variant: str, bf16: float, fp8: float) -> None:
    shape = magi1.shape(variant)
    sizes = {precision: shape.weights_bytes(precision) for precision in ("fp16", "bf16", "fp8", "nvfp4")}
    assert sizes["bf16"] == sizes["fp16"] == pytest.approx(bf16, rel=1e-3)
    # The official format leaves the projections of the text; `export.families.magi1.policy` says what the export quantizes.
    config = MagiConfig.from_dict(shape.config)
    text = (config.num_layers - 2) * 2 * config.kv_size * config.text_size
    assert sizes["fp8"] + text == pytest.approx(fp8, rel=1e-3)
    formats = policy.formats(config, "nvfp4")
    linears = {name: shape.model.get_submodule(name).weight.numel() for name in policy.all_linears(config)}
    saved = {"nvfp4": 2 - 0.5625, "fp8": 1.0}
    assert sizes["nvfp4"] == pytest.approx(
        sizes["bf16"] - sum(number * saved[formats[name]] for name, number in linears.items() if name in formats)
    )


def test_a_clip(tmp_path: Path) -> None:
    clip = magi1.clip_work(request("4.5b-distill", "nvfp4"), tmp_path)
    text, transformer, vae = clip.parts
    assert [part.component for part in clip.parts] == ["text_encoder", "transformer", "vae"]
    assert (text.runs, transformer.runs, vae.runs) == (1, 79, 4)
    assert transformer.kept and transformer.kept.count == 5
    assert transformer.kept.each == pytest.approx(1.69e9, rel=0.005)
    assert clip.working(1) == transformer.kept.bytes + max(part.activation.value for part in clip.parts)
    # Longer clips take longer, not more memory.
    longer = magi1.clip_work(request("4.5b-distill", "nvfp4", frames=240), tmp_path)
    assert longer.resident(1) == clip.resident(1) and longer.flops > 2.3 * clip.flops


def test_the_demo_tells_its_own_shapes(tmp_path: Path) -> None:
    transformer = magi1.clip_work(request("demo"), tmp_path).parts[1]
    (file,) = (CHECKOUT / SPEC.variants["demo"].checkpoint / "transformer").glob("*.safetensors")
    with safe_open(file, "pt") as stored:
        values = sum(stored.get_tensor(name).numel() for name in stored.keys())  # noqa: SIM118  (it is no mapping)
    assert sum(parameter.numel() for parameter in magi1.shape("demo").model.parameters()) == values
    assert transformer.weights.value < 4 * values


def test_the_encoders_are_as_large_as_published() -> None:
    assert text_encoder(None, "fp32")[0] == pytest.approx(19.05e9, rel=1e-3)
    assert vae_bytes(None, "bf16") == 2 * 613_755_239


def test_decoding_by_tiles_is_what_decoding_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"embed_dim": 256, "depth": 6, "num_heads": 4}
    with torch.device("meta"):
        model = AutoencoderKLMagi(**small).eval()
        z = torch.empty(1, 16, 6, 40, 56)
    whole = count(lambda: model.decode(z))
    monkeypatch.setattr("export.planning.magi1.torch_parts._vae", lambda source, precision: model)
    planned = decode_chunk(Path("small"), "fp32", 40, 56)
    assert planned.flops == whole.flops
    assert planned.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.1)
    assert planned.moved_bytes == pytest.approx(whole.moved_bytes, rel=0.1)
