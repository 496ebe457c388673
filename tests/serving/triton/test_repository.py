"""The model repository is as the families' tables say, and Triton can read it."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from videosdgx.families import FAMILIES
from videosdgx.families.spec import Component, FamilySpec
from videosdgx.serving.triton.repository import COMMAND, FOLDER, differences, files, write


def config(name: str, folder: Path = FOLDER) -> model_config_pb2.ModelConfig:
    parsed = model_config_pb2.ModelConfig()
    text_format.Parse((folder / name / "config.pbtxt").read_text(), parsed)
    return parsed


def test_what_is_committed_is_as_the_tables_say() -> None:
    assert differences() == [], f"write it anew: {COMMAND}"


@pytest.mark.parametrize("name", sorted({path.partition("/")[0] for path in files()}))
def test_every_model_is_read_by_triton_and_says_who_wrote_it(name: str) -> None:
    parsed = config(name)
    assert (parsed.name, parsed.backend, parsed.max_batch_size) == (name, "python", 0)
    assert (FOLDER / name / "config.pbtxt").read_text().startswith(f"# Written by {COMMAND} from ")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_both_models_of_a_family_take_its_inputs(family: FamilySpec) -> None:
    for name, decoupled, outputs in (
        (family.name, False, ["video", "metadata"]),
        (f"{family.name}_stream", True, ["event", "video", "metadata"]),
    ):
        parsed = config(name)
        assert parsed.model_transaction_policy.decoupled == decoupled and [one.name for one in parsed.output] == outputs
        found = {
            one.name: (model_config_pb2.DataType.Name(one.data_type), list(one.dims), one.optional) for one in parsed.input
        }
        assert found == {
            one.name: (f"TYPE_{one.datatype}".replace("BYTES", "STRING"), list(one.dims), one.name != "prompt")
            for one in family.inputs.values()
        }


@pytest.mark.parametrize(
    ("family", "component"),
    [(family.name, component) for family in FAMILIES.values() for component in family.components.values()],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_a_component_has_its_ports_and_what_serving_adds(family: str, component: Component) -> None:
    parsed = config(f"{family}_{component.name}")
    added = ["release"] if component.stateful else []
    assert [one.name for one in parsed.input] == [*(port.name for port in component.inputs), *added]
    assert [one.name for one in parsed.output] == [*(port.name for port in component.outputs), "seconds"]
    # A release comes alone.
    assert not component.stateful or all(one.optional for one in parsed.input)


def test_what_differs_is_named_and_mended(tmp_path: Path) -> None:
    write(tmp_path)
    assert differences(tmp_path) == []
    (tmp_path / "wan21" / "config.pbtxt").write_text("max_batch_size: 8\n")
    (tmp_path / "magi1_vae" / "1" / "model.py").unlink()
    (tmp_path / "sora").mkdir()
    (tmp_path / "sora" / "config.pbtxt").write_text("")
    assert sorted(differences(tmp_path)) == [
        "magi1_vae/1/model.py is missing",
        "sora/config.pbtxt is of no model in the tables",
        "wan21/config.pbtxt is not as its table says",
    ]
    write(tmp_path)
    assert differences(tmp_path) == ["sora/config.pbtxt is of no model in the tables"]
