"""Which function compares a case of which kind."""

from collections.abc import Callable
from typing import Any

from tests.reference import caption, dit, sampler, vae
from tests.reference.checks import Check
from tests.reference.manifest import Reference

KINDS: dict[str, Callable[[dict[str, Any], Reference], list[Check]]] = {
    "dit_forward": dit.forward,
    "dit_forward_bf16": dit.forward_bf16,
    "dit_forward_fp8": dit.forward_fp8,
    "dit_cache_chain": dit.cache_chain,
    "rope": dit.rope,
    "timestep_embedding": dit.timesteps,
    "fp8_linear": dit.fp8_linear,
    "vae": vae.autoencoder,
    "schedules": sampler.schedules,
    "text_cleaning": caption.text_cleaning,
    "caption": caption.caption,
    "sampler": sampler.sampler,
}
