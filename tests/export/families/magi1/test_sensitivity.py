"""What is MAGI-1's own of the sensitivity command: which layers belong together, and the text's, which another graph has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from export.check.sensitivity import main
from export.families.magi1.recipe import RECIPES, TRANSFORMER

APP = typer.Typer()
APP.command()(main)


@pytest.mark.usefixtures("short_clips")
def test_the_command_measures_every_layer(tiny_magi1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(TRANSFORMER.whole, calibration_prompts=lambda _: ["a red circle moving right then up"])
    monkeypatch.setitem(RECIPES, "transformer", replace(TRANSFORMER, whole=few))
    page = tmp_path / "page.md"
    given = ["magi1", "--checkpoint", str(tiny_magi1), "--prompts", "1", "--json", "--markdown", str(page)]
    result = CliRunner().invoke(APP, given)
    assert result.exit_code == 0, result.output
    blocks, kinds = json.loads(result.stdout)
    assert sorted(row["group"] for row in blocks["rows"]) == ["layers.0", "layers.1", "layers.2"]
    assert len(kinds["rows"]) == 8 and all(row["layers"] == 3 for row in kinds["rows"])
    for level in (blocks, kinds):
        assert sum(row["share"] for row in level["rows"]) == pytest.approx(1)
        # Also the text's layers, which run in the other graph, are quantized in turn: none is without effect.
        assert all(level["all_db"] < row["alone_db"] < 80 for row in level["rows"])
    text = page.read_text()
    assert "# MAGI-1:" in text and "| linear_kv_xattn | 3 |" in text and str(tmp_path) not in text


def test_a_mistake_is_named() -> None:
    result = CliRunner().invoke(APP, ["magi1", "--variant", "5b"])
    assert result.exit_code == 2 and "unknown variant '5b'" in " ".join(result.output.replace("│", " ").split())
