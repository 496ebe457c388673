"""MAGI-1's autoencoder against reference tensors: single tiles, tiling with blending, pixels."""

from typing import Any

import torch
from torch import Tensor

from export.families.magi1.convert_pipeline import VAE_FIXED, VAE_RENAMED
from tests.reference.checks import Check, largest, relative_l2
from tests.reference.manifest import Reference
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi
from videosdgx.families.magi1.network.pixels import pixels_to_video, video_to_pixels

LIMIT, BF16_LIMIT = 2e-5, 3e-2
PIXELS_LIMIT = 0.01  # share of the values that may differ by one

TILING = ("tile_sample_min_length", "tile_sample_min_height", "tile_sample_min_width", "spatial_overlap")


def build(reference: Reference, case: dict[str, Any]) -> AutoencoderKLMagi:
    """The model of a case, with its tiling and its weights as stored, strictly."""
    described = reference.model(case["model"])
    config = dict(described["ddconfig"])
    for key, value in VAE_FIXED.items():
        if config.pop(key) != value:
            raise ValueError(f"{case['model']}: {key} other than {value} does not exist")
    tiling = case.get("tiling", {})
    if tiling.get("temporal_overlap", 0.0):
        raise ValueError("tiles do not overlap in time")
    config |= {key: tiling[key] for key in TILING if key in tiling}
    if "scale_factor" in case:
        config["scaling_factor"] = case["scale_factor"]
    vae = AutoencoderKLMagi(**{VAE_RENAMED.get(key, key): value for key, value in config.items()})
    vae.load_state_dict(reference.load(described["weights"]), strict=True)
    return vae.eval()


def record(vae: AutoencoderKLMagi, side: str) -> dict[str, Tensor]:
    """Have a model note the tokens after every block of its encoder or decoder, and its position table, as it runs."""
    seen: dict[str, Tensor] = {}
    tower = getattr(vae, side)
    for index, block in enumerate(tower.blocks):
        block.register_forward_hook(lambda _module, _inputs, output, name=f"mid.block{index}": seen.update({name: output}))
    positions = tower.positions

    def note(grid: tuple[int, int, int]) -> Tensor:
        table: Tensor = positions(grid)
        seen["mid.pos_embed"] = table
        return table

    tower.positions = note
    return seen


def _tile(vae: AutoencoderKLMagi, tensors: dict[str, Tensor], op: str) -> list[Check]:
    seen = record(vae, f"{op}r")
    if op == "encode":
        seen["mid.moments"] = vae.encode_tile(tensors["in.video"], reference_behaviour=True)
        seen["out.z"] = seen["mid.moments"].chunk(2, dim=1)[0]
    else:
        seen["out.video"] = vae.decode_tile(tensors["in.z"], reference_behaviour=True)
    return [largest(name, seen[name], tensors[name], LIMIT) for name in tensors if not name.startswith("in.")]


def _tiled(vae: AutoencoderKLMagi, tensors: dict[str, Tensor]) -> list[Check]:
    latents = vae.encode(tensors["in.video"], reference_behaviour=True).latent_dist.mode()
    video = vae.decode(tensors["out.z"], reference_behaviour=True).sample
    return [largest("out.z", latents, tensors["out.z"], LIMIT), largest("out.video", video, tensors["out.video"], LIMIT)]


def _pixels(vae: AutoencoderKLMagi, tensors: dict[str, Tensor]) -> list[Check]:
    video = pixels_to_video(tensors["in.uint8"])
    scaled = vae.encode(video, reference_behaviour=True).latent_dist.mode() * vae.config.scaling_factor
    decoded = vae.decode(scaled / vae.config.scaling_factor, reference_behaviour=True).sample
    pixels = video_to_pixels(decoded, reference_behaviour=True)
    difference = (pixels.int() - tensors["out.uint8"].permute(0, 2, 3, 1).int()).abs()
    expected = tensors["out.float"]
    return [
        largest("mid.scaled_latents", scaled, tensors["mid.scaled_latents"], LIMIT),
        largest("out.float", decoded[0].transpose(0, 1), expected, LIMIT),
        Check("out.uint8, values off by one", (difference > 0).float().mean().item(), PIXELS_LIMIT),
        Check("out.uint8, largest difference", float(difference.max()), 1.0),
    ]


def _bf16(vae: AutoencoderKLMagi, tensors: dict[str, Tensor]) -> list[Check]:
    vae = vae.to(torch.bfloat16)
    video = vae.decode_tile(tensors["in.z"].bfloat16(), reference_behaviour=True)
    latents = vae.encode_tile(tensors["in.video"].bfloat16(), reference_behaviour=True).chunk(2, dim=1)[0]
    return [
        relative_l2("out.video", video, tensors["out.video"], BF16_LIMIT),
        relative_l2("out.z", latents, tensors["out.z"], BF16_LIMIT),
    ]


@torch.no_grad()
def autoencoder(case: dict[str, Any], reference: Reference) -> list[Check]:
    """One case of the autoencoder; `op` says what it does."""
    vae, tensors, op = build(reference, case), reference.tensors(case), case["op"]
    if op in ("encode", "decode"):
        return _tile(vae, tensors, op)
    if op.startswith("tiled_encode"):
        return _tiled(vae, tensors)
    if op.startswith("uint8"):
        return _pixels(vae, tensors)
    if op.startswith("bfloat16"):
        return _bf16(vae, tensors)
    raise ValueError(f"nothing does {op!r}")
