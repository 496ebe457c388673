"""The judge's command: bars, the table in the card, mistakes. What it counts is tested with each family's judge."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from export.demo.checkpoint import CHECKPOINTS
from export.demo.evaluate import BEGIN, END, Judged, evaluate, failures, rows, write_card
from export.demo.judging import Judging
from videosdgx.families import FAMILIES

APP = typer.Typer()
APP.command()(evaluate)


def judging(**more: Any) -> Judging:
    return Judging(load=lambda folder: None, about="2 steps", clips=lambda pipe, n: {}, parts=lambda pipe: {}, **more)


JUDGED = [
    Judged("fp32", {"colour": 10, "all": 9}, {"colour": 2, "all": 2}, 0.1),
    Judged("fp8", {"colour": 10, "all": 8}, {"colour": 2, "all": 1}, 0.1),
]


def test_what_reaches_its_bars_is_not_blamed() -> None:
    bars = judging(bars={"all": 90}, lost={"all": {"fp8": 10, "nvfp4": 0}}, least={"PSNR": 30})
    assert failures(bars, JUDGED, {"PSNR": 30.0}, 10) == []


def test_what_is_below_a_bar_is_named_with_it() -> None:
    bars = judging(bars={"all": 95}, lost={"all": {"fp8": 5}}, least={"PSNR": 30})
    assert failures(bars, JUDGED, {"PSNR": 29.0}, 10) == [
        "PSNR is 29.00, at least 30 is required",
        "fp32: all is 90 %, at least 95 % is required",
        "fp8: all loses 10 points, at most 5 are allowed",
    ]


def test_the_table_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    write_card(card, *rows(JUDGED, 10, 2), {"PSNR": 30.125}, "2 steps")
    text = card.read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nafter\n") and "old" not in text
    assert "| right | fp32, of 10 | fp8, of 10 | fp32, of 2 continued | fp8, of 2 continued |" in text
    assert "| all | 9 | 8 | 2 | 1 |" in text and "- PSNR: 30.12" in text
    card.write_text("no place")
    with pytest.raises(ValueError, match="has no place for the table"):
        write_card(card, [], [], {}, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_card_shows_what_was_judged_in_every_precision(family: str) -> None:
    table = (CHECKPOINTS / family / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert "| right | fp32, of 100 | fp8, of 100 | nvfp4, of 100 |" in table


def test_a_mistyped_family_is_named() -> None:
    result = CliRunner().invoke(APP, ["wan22"])
    assert result.exit_code == 2 and "unknown family 'wan22'; there are: wan21, magi1" in result.output
