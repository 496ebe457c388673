"""What the README and the pages on using it show to paste is pasted here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from client.readme import BEGIN, END, with_table
from tests.conftest import Server
from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT

PAGES = {path: path.read_text() for path in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))}
TEXT = PAGES[CHECKOUT / "README.md"]
BLOCKS = [
    pytest.param(language, code, id=f"{path.stem}-{language}-{number}")
    for path, text in PAGES.items()
    for number, (language, code) in enumerate(re.findall(r"^```(python|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
]


def test_links_lead_to_files() -> None:
    for path, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            assert "://" in target or (path.parent / target).exists(), (path.name, target)


def test_the_table_of_inputs_is_as_the_families_say() -> None:
    assert with_table(TEXT) == TEXT, "write it anew: python -m client.readme"
    table = TEXT[TEXT.index(BEGIN) : TEXT.index(END)]
    for family in FAMILIES.values():
        for name in family.inputs:
            rows = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
            assert sum(f"`{family.name}`" in row or row.endswith("| all |") for row in rows) == 1, (family.name, name)


def test_a_changed_table_is_mended_and_one_without_marks_is_named() -> None:
    assert with_table(TEXT.replace("how closely to follow", "hwo clsoely")) == TEXT
    with pytest.raises(ValueError, match="must have the marks"):
        with_table(TEXT.replace(END, ""))


def test_both_languages_are_shown() -> None:
    assert {block.values[0] for block in BLOCKS} == {"python", "bash"}


@pytest.mark.server
@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_block_works_as_it_stands(language: str, code: str, server: Server, tmp_path: Path) -> None:
    if "curl" in code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    code = code.replace("localhost:8000", server.http_url)
    # Commands without --url mean the default address, which the tests' server has not.
    environment = os.environ | {
        "VIDEOSDGX_URL": server.http_url,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"error"' not in done.stdout
    for made in tmp_path.glob("*.mp4"):
        assert made.read_bytes()[4:8] == b"ftyp"
