"""The networks here are tiny: one thread is faster than several, above all where cores are busy."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread(every_thread: None) -> None:
    """For the tests of this folder."""
    torch.set_num_threads(1)
