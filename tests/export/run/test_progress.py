"""What a person reads while an export runs, and when it ends early."""

import io

import pytest
from rich.console import Console

from export.run.errors import ExportError, require_memory
from export.run.progress import Report


def test_stages_that_were_finished_are_told_with_time_and_memory_even_if_a_later_one_fails() -> None:
    out = io.StringIO()
    with pytest.raises(ExportError), Report(Console(file=out, width=120)) as report:
        with report.step("graph") as step:
            step.note("3 layers")
        with report.step("compile"):
            raise ExportError("refused")
    lines = out.getvalue().splitlines()
    assert lines[0] == "graph: 3 layers"
    (row,) = [line for line in lines if "│ graph" in line]
    assert "GB" in row and "3 layers" in row
    assert "peak memory" in out.getvalue() and "compile" not in out.getvalue()


def test_nothing_is_told_of_an_export_that_did_nothing() -> None:
    out = io.StringIO()
    with Report(Console(file=out)):
        pass
    assert out.getvalue() == ""


def test_too_little_memory_is_told_with_what_to_do_instead() -> None:
    require_memory("to compile", 1, "buy more")
    with pytest.raises(ExportError, match=r"to compile needs at least 1000000\.0 GB of memory and .* GB are free: buy more"):
        require_memory("to compile", 10**15, "buy more")
