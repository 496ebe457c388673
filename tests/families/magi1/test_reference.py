"""Every case of the reference tensors that lie beside the checkout (or where VIDEOSDGX_REFERENCE says)."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.reference.kinds import KINDS
from tests.reference.manifest import Reference

FOLDER = Path(os.environ.get("VIDEOSDGX_REFERENCE") or Path(__file__).parents[4] / "shared" / "reference" / "magi1")
REFERENCE = Reference(FOLDER) if (FOLDER / "manifest.json").is_file() else None
CASES: list[Any] = [pytest.param(case, id=case["name"]) for case in (REFERENCE.cases if REFERENCE else [])]


@pytest.mark.skipif(REFERENCE is None, reason=f"no reference tensors in {FOLDER}")
@pytest.mark.parametrize("case", CASES)
def test_reference(case: dict[str, Any]) -> None:
    assert REFERENCE
    checks = KINDS[case["kind"]](case, REFERENCE)
    over = [f"{check.what}: {check.error:.2e} > {check.limit:.0e}" for check in checks if not check.passed]
    assert checks and not over, over
