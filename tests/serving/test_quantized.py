"""The demos in the precision that each family has by default: the contract tests serve tiny networks in fp16."""

import pytest

from client import VideoClient
from tests.conftest import Server
from tests.contract import in_process
from tests.contract.requests import small
from videosdgx.families import FAMILIES


@pytest.mark.server
@pytest.mark.parametrize("family", FAMILIES)
def test_a_served_clip_is_what_the_pipeline_makes_in_this_process(family: str, server: Server) -> None:
    values = small(family)
    alone = in_process.file(server.home, family, FAMILIES[family].default_precision, **values)
    with VideoClient(server.http_url) as client:
        assert client.generate(family, **values).data == alone
