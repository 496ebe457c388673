"""A server loads nothing that its manifest does not know: not of any family, and not any part of one."""

import itertools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from client import ServerError, VideoClient
from tests.conftest import start_tiny_server
from tests.contract.conftest import Made
from tests.contract.requests import small
from videosdgx.artifacts import MANIFEST, PIPELINE
from videosdgx.families import FAMILIES
from videosdgx.serving.names import component_model


@dataclass
class Harm:
    """Something wrong with an artifact: what the refusal says of it, and how it is put right."""

    words: str
    mend: Callable[[], object]


def change(file: Path) -> Harm:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    return Harm(f"{file.name} has SHA-256 .* refusing to load it", lambda: file.write_bytes(whole))


def cut_short(file: Path) -> Harm:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    words = f"{file.name} has {len(whole) // 2} bytes, its manifest says {len(whole)}"
    return Harm(words, lambda: file.write_bytes(whole))


def add(file: Path) -> Harm:
    another = file.with_name("another.py")
    another.write_text("print('run me')")
    return Harm("another.py is not listed in manifest.json", another.unlink)


def remove(file: Path) -> Harm:
    whole = file.read_bytes()
    file.unlink()
    return Harm(f"{file.name} is listed in manifest.json but missing", lambda: file.write_bytes(whole))


def harm_every_part(home: Path, family: str) -> dict[str, Harm]:
    """What was done to the artifact of each part of a family: one kind of harm after the other, to the largest file."""
    kinds = itertools.cycle((change, cut_short, add, remove))
    done = {}
    for part in (*FAMILIES[family].components, PIPELINE):
        (directory,) = (home / "artifacts" / family / "demo" / part).iterdir()
        files = [path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST]
        done[part] = next(kinds)(max(files, key=lambda path: path.stat().st_size))
    return done


@pytest.mark.server
def test_a_harmed_artifact_is_refused_by_name_until_it_is_mended_and_other_requests_go_on(
    tiny_home: Path, made: Callable[..., Made], tmp_path: Path
) -> None:
    expected = {family: made(family, **small(family)).video.data for family in FAMILIES}
    shutil.copytree(tiny_home / "artifacts", tmp_path / "artifacts")
    harmed = {family: harm_every_part(tmp_path, family) for family in FAMILIES}
    server = start_tiny_server(tmp_path)
    client = VideoClient(server.http_url)
    whole: list[str] = []
    try:
        for family, parts in harmed.items():
            while parts:
                with pytest.raises(ServerError) as caught:
                    client.generate(family, **small(family))
                # Components are loaded side by side: any may be the first that fails.
                (part,) = [name for name, harm in parts.items() if re.search(harm.words, str(caught.value))]
                if part != PIPELINE:
                    facts = client.status()["components"][component_model(family, part)]
                    assert facts["state"] == "failed" and re.search(parts[part].words, facts["error"])
                assert client.ready()
                assert all(client.generate(other, **small(other)).data == expected[other] for other in whole)
                parts.pop(part).mend()
            assert client.generate(family, **small(family)).data == expected[family]
            whole.append(family)
    finally:
        assert server.stop() == 0
    assert not list((tmp_path / "run").rglob("*.json")), "a component that was unloaded is told of as loaded"
