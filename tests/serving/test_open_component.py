"""Every component in the families' tables is opened from its artifact."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import fake_triton  # noqa: F401  (before all that imports Triton's own)
from videosdgx.families import FAMILIES
from videosdgx.home import CHECKOUT
from videosdgx.serving.models.component import open_component
from videosdgx.serving.settings import FamilySettings, Settings


def settings(home: Path) -> Settings:
    chosen = {name: FamilySettings(variant="demo", precision=spec.default_precision) for name, spec in FAMILIES.items()}
    return Settings(home=home, target="cpu", families=chosen, http_port=0, grpc_port=0, metrics_port=0)


@pytest.mark.parametrize(
    ("family", "component"), [(name, component) for name, spec in FAMILIES.items() for component in spec.components]
)
def test_a_component_opens(exported_home: Path, family: str, component: str) -> None:
    engine, directory = open_component(settings(exported_home), family, component)
    assert (engine.manifest.family, engine.manifest.component) == (family, component)
    assert directory.parts[-4:-1] == (family, "demo", component)
    if FAMILIES[family].component(component).stateful:
        assert engine.facts() == {"generations": 0, "state_bytes": 0}  # type: ignore[attr-defined]
        engine.release("nothing")  # type: ignore[attr-defined]
    engine.close()


def test_one_that_no_table_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown component 'refiner' of wan21"):
        open_component(settings(tmp_path), "wan21", "refiner")


def test_an_engine_that_keeps_nothing_brings_no_pytorch_into_its_process(exported_home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.serving.test_open_component import open_component, settings;"
        "open_component(settings(Path(sys.argv[1])), 'wan21', 'transformer'); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(exported_home)]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
