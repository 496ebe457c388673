"""`videosdgx generate` has an option for every input in the families' tables, and explains it."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from client import cli
from client.options import INPUTS, contents, option_help
from videosdgx.families import FAMILIES
from videosdgx.families.spec import Input, inputs_by_name


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(add_completion=False)
    made.command()(cli.generate)
    return made


def options(app: typer.Typer) -> dict[str, Any]:
    return {option: one for one in typer.main.get_command(app).params for option in getattr(one, "opts", [])}


def test_every_input_of_every_family_is_an_option_with_its_meaning_and_limits(app: typer.Typer) -> None:
    there = options(app)
    for family in FAMILIES.values():
        for name, one in family.inputs.items():
            if name in ("prompt", "response_format"):
                continue
            option = there[f"--{name.replace('_', '-')}"]
            assert option is there[one.option or option.opts[-1]]
            assert one.meaning[1:] in option.help and one.allowed in option.help
            others = [other for other in FAMILIES.values() if other.inputs.get(name) != one]
            assert not others or family.name in option.help, name
    own = {"--output", "-o", "--play-while-generating", "--timeout", "--url"}
    named = {option for option in there if option.startswith("-")}
    assert named - own == {spelling for name in INPUTS for spelling in there[f"--{name.replace('_', '-')}"].opts}


def test_help_shows_them(app: typer.Typer) -> None:
    text = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    for option in ("--window-size", "--steps", "--frames", "--video"):
        assert option in text
    assert re.search(r"--window-size.*Chunks in work at once", text)


def test_one_name_has_one_type_in_all_families() -> None:
    for name, forms in inputs_by_name(FAMILIES.values()).items():
        assert len({(one.datatype, one.dims, one.file, one.option) for one in forms}) == 1, name


def test_help_tells_who_has_what() -> None:
    number = Input("x", "INT32", "how many", low=1, high=4)
    everyone = list(FAMILIES)
    assert option_help({number: everyone}) == "How many (1 to 4)"
    assert option_help({number: ["magi1"]}) == "How many (magi1: 1 to 4)"
    assert option_help({Input("x", "BOOL", "whether"): ["a", "b", "c"]}) == "Whether (a, b, c)"
    assert option_help({number: ["a"], Input("x", "INT32", "how much"): ["b"]}) == "How many (a: 1 to 4) How much (b)"


def test_what_was_given_reaches_the_client_files_as_their_bytes(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def generate(self: object, family: str, prompt: str, **values: Any) -> None:
        given.update(values)
        raise Enough

    monkeypatch.setattr(cli.VideoClient, "generate", generate)
    (tmp_path / "a.mp4").write_bytes(b"film")
    arguments = ["magi1", "x", "--steps", "8", "--window-size", "2", "--video", str(tmp_path / "a.mp4"), "--duration", "2"]
    assert isinstance(CliRunner().invoke(app, arguments).exception, Enough)
    inputs = {name: value for name, value in given.items() if name in INPUTS}
    assert inputs == {"num_inference_steps": 8, "window_size": 2, "video": b"film", "duration": 2.0}
    given.clear()
    CliRunner().invoke(app, ["wan21", "x", "-o", str(tmp_path / "x.png")])
    assert {name: value for name, value in given.items() if name in INPUTS} == {"num_frames": 1}


def test_a_list_that_was_not_given_is_nothing() -> None:
    assert contents({"seed": 0, "width": None, "strengths": []}) == {"seed": 0}
