"""Counts of the parts that run in PyTorch against their real modules and files."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from export.demo.checkpoint import WAN21
from export.planning.counting import count
from export.planning.wan21.torch_parts import text_encoder, vae, vae_bytes


def file_values(part: str) -> int:
    """Values in the demo's file of weights."""
    (path,) = (WAN21 / part).glob("*.safetensors")
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  (safe_open is no mapping)


def demo_vae() -> AutoencoderKLWan:
    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(WAN21 / "vae"))
    model.enable_tiling()
    return model.eval()


def test_published_sizes():
    """docs/specs/wan21.md, section 1."""
    assert text_encoder(None, "bf16")[0] == 2 * 5_680_910_336
    assert vae_bytes(None, "fp32") == 4 * 126_892_531


def test_weights_are_those_of_the_demos_files():
    assert vae_bytes(WAN21, "fp32") == 4 * file_values("vae")
    assert text_encoder(WAN21, "bf16")[0] == 2 * file_values("text_encoder")


@pytest.mark.parametrize("latent", [(1, 8, 8), (3, 8, 8), (2, 40, 34), pytest.param((5, 60, 40), marks=pytest.mark.slow)])
def test_the_vae_costs_what_its_whole_run_costs(latent):
    model, (f, h, w) = demo_vae(), latent
    z = torch.empty(1, 16, f, h, w, device="meta")
    x = torch.empty(1, 3, 4 * f - 3, 8 * h, 8 * w, device="meta")
    for decode, call in ((True, lambda: model.decode(z)), (False, lambda: model.encode(x))):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        planned, whole = vae(WAN21, "fp32", decode, latent), count(call)
        assert planned.flops == counter.get_total_flops()
        assert planned.moved_bytes == pytest.approx(whole.moved_bytes, rel=0.05)
        assert planned.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.35)


def test_the_text_encoder_costs_what_its_weights_tell():
    _, prompt = text_encoder(None, "bf16")
    products = 24 * (4 * 4096 * 4096 + 3 * 4096 * 10240) * 2 * 512
    attention = 24 * 4 * 512 * 512 * 4096
    assert prompt.flops == pytest.approx(products + attention, rel=0.01)
