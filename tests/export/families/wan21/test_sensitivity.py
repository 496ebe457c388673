"""Quantizing a group of layers at a time: the switches, the tables, the command."""

import json
from dataclasses import replace

import pytest
import torch
import typer
from typer.testing import CliRunner

from export.check.sensitivity import Switches, groups, main, mean_snr, measure
from export.families.wan21 import policy
from export.families.wan21.lowered import WanConfig
from export.families.wan21.recipe import RECIPES, TRANSFORMER
from export.quantize.calibration import simulate_fp8
from export.quantize.emulation import simulate_nvfp4
from export.run.recipe import Velocity
from tests.families.wan21.tiny import input_amax, random_inputs, random_transformer

MODEL = random_transformer()
CONFIG = WanConfig.from_dict(dict(MODEL.config))
INPUTS = random_inputs(CONFIG)
LAYERS = policy.all_linears(CONFIG)
AMAX = {name: amax for name, amax in input_amax(MODEL, INPUTS).items() if name in LAYERS}


def velocities() -> list[Velocity]:
    return [Velocity(lambda model: run(model).numpy(), run(MODEL).numpy())]


def run(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(**INPUTS).sample


def test_groups_hold_every_layer_once():
    for by, count in (("block", CONFIG.num_layers), ("layer-kind", 10)):
        found = groups(LAYERS, policy.split, by)
        assert len(found) == count
        assert sorted(name for members in found.values() for name in members) == sorted(LAYERS)


@pytest.mark.parametrize("precision", ["fp8", "nvfp4"])
def test_switches_quantize_what_they_are_told(precision):
    switches = Switches(random_transformer(), precision, AMAX)
    switches.quantize([])
    assert torch.allclose(run(switches.model), run(MODEL), atol=1e-5)
    chosen = groups(LAYERS, policy.split, "block")["blocks.1"]
    switches.quantize(chosen)
    expected = random_transformer()
    {"fp8": simulate_fp8, "nvfp4": simulate_nvfp4}[precision](expected, {name: AMAX[name] for name in chosen})
    assert torch.equal(run(switches.model), run(expected))
    assert (run(switches.model) - run(MODEL)).norm() > 1e-3 * run(MODEL).norm()


def test_costs_are_measured_and_sorted():
    switches = Switches(random_transformer(), "nvfp4", AMAX)
    kinds = groups(LAYERS, policy.split, "layer-kind")
    result = measure(switches, lambda model: mean_snr(model, velocities()), kinds, "nvfp4", "layer-kind")
    gains = [row.gain_db for row in result.rows]
    assert gains == sorted(gains, reverse=True)
    assert sum(row.share for row in result.rows) == pytest.approx(1)
    for row in result.rows:
        assert row.alone_db > result.all_db
        assert row.spared_db == pytest.approx(result.all_db + row.gain_db)


APP = typer.Typer()
APP.command()(main)


def test_the_command_prints_and_writes_its_tables(tiny_checkpoint, tmp_path, monkeypatch):
    few = replace(TRANSFORMER.whole, calibration_prompts=lambda _: ["a red circle on a black background"])
    monkeypatch.setitem(RECIPES, "transformer", replace(TRANSFORMER, whole=few))
    page = tmp_path / "docs" / "page.md"
    given = ["wan21", "--checkpoint", str(tiny_checkpoint), "--prompts", "1", "--json", "--markdown", str(page)]
    result = CliRunner().invoke(APP, given)
    assert result.exit_code == 0, result.output
    blocks, kinds = json.loads(result.stdout)
    assert (blocks["by"], kinds["by"]) == ("block", "layer-kind")
    text = page.read_text()
    assert "## NVFP4, by block" in text and "| attn1.to_q | 2 |" in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--precision", "int3"], 2, "unknown precision 'int3'"),
        (["--by", "colour"], 2, "unknown level 'colour'"),
        (["--variant", "t2v-99b"], 2, "unknown variant 't2v-99b'"),
        (["--checkpoint", "nowhere"], 1, "no checkpoint at nowhere"),
    ],
)
def test_mistakes_are_named(options, code, message):
    result = CliRunner().invoke(APP, ["wan21", *options])
    assert result.exit_code == code and message in " ".join(result.output.replace("│", " ").split())
