"""What the command takes from the families' tables, before anything is read."""

from pathlib import Path
from typing import Any

import pytest

from export import cli
from tests.export.exports import export
from videosdgx.families import FAMILIES


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings of each export that would have been made."""
    found: list[Any] = []
    monkeypatch.setattr(cli, "_make", lambda settings, spec, part: found.append(settings))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_precision_is_the_familys_own(family: str, asked: list[Any], tmp_path: Path) -> None:
    code, output = export(family, "--home", str(tmp_path))
    assert code == 0, output
    assert asked[0].precision == FAMILIES[family].default_precision


@pytest.mark.parametrize("family", FAMILIES)
def test_every_precision_of_the_table_is_taken_and_no_other(family: str, asked: list[Any], tmp_path: Path) -> None:
    for target in cli.TARGETS:
        for part in FAMILIES[family].components.values():
            if not part.engine:
                continue
            for precision in (*FAMILIES[family].precisions, "int3"):
                options = ("--component", part.name, "--target", target, "--precision", precision, "--home", str(tmp_path))
                code, output = export(family, *options)
                allowed = precision in part.engine.get(target, ())
                assert (code == 0) == allowed, (options, output)
                assert allowed or "precision" in output or "--target" in output
    assert len(asked) == sum(len(own) for part in FAMILIES[family].components.values() for own in part.engine.values())


def test_a_variant_that_lacks_something_is_refused_with_the_reason(asked: list[Any], tmp_path: Path) -> None:
    lacking = [(name, variant) for name, spec in FAMILIES.items() for variant in spec.variants.values() if variant.lacks]
    assert lacking
    for family, variant in lacking:
        code, output = export(family, "--variant", variant.name, "--home", str(tmp_path))
        assert code == 2 and f"variant {variant.name!r} of {family} cannot be used yet: {variant.lacks[:30]}" in output
    assert not asked
