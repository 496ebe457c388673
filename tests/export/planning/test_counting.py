import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export.planning.counting import count


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        x = self.conv(x).flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(self.linear(x), x, x).relu()


def test_operations_are_those_of_torchs_counter():
    with torch.device("meta"):
        module, x = Mixed(), torch.empty(2, 3, 16, 20)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    assert count(lambda: module(x)).flops == counter.get_total_flops() > 0


def test_a_chain_holds_two_tensors_at_once_and_reads_and_writes_each():
    x = torch.empty(1000, device="meta")

    def chain():
        y = x + 1  # x was there before: not counted
        for _ in range(5):
            y = y * 2
        return y

    counted = count(chain)
    assert counted.peak_bytes == 2 * 4000
    assert counted.moved_bytes == 6 * 2 * 4000


def test_views_move_nothing_and_in_place_results_are_not_new():
    x = torch.empty(10, 10, device="meta")
    counted = count(lambda: x.t()[:5].add_(1))
    assert counted.peak_bytes == 0
    assert counted.moved_bytes == 2 * 50 * 4  # read and written, in place


def test_what_is_kept_stays_counted():
    x = torch.empty(1000, device="meta")
    assert count(lambda: [x + number for number in range(7)]).peak_bytes == 7 * 4000


def test_attention_is_one_kernel_that_keeps_no_scores():
    query, key, value = (torch.empty(2, heads, tokens, 16, device="meta") for heads, tokens in ((4, 100), (2, 300), (2, 300)))

    def attend():
        return nn.functional.scaled_dot_product_attention(query, key, value=value, enable_gqa=True)

    with FlopCounterMode(display=False) as counter:
        attend()
    counted = count(attend)
    assert counted.flops == counter.get_total_flops() == 2 * 2 * (2 * 4 * 100 * 300 * 16)
    assert counted.peak_bytes == query.nbytes
    assert counted.moved_bytes == 2 * query.nbytes + key.nbytes + value.nbytes
