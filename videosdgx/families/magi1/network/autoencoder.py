"""MAGI-1's video autoencoder: a plain transformer on each side, 8 x 8 x 4 pixels to one latent vector.

Parameter names are those of the official checkpoint, so that it loads strictly (docs/specs/magi1.md, section 10).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from videosdgx.families.magi1.network.tiling import Tiles, tiled_decode, tiled_encode

_ATTENTION_EPS = 1e-5  # added to the deviation, not to the variance
_FINAL_CHANNELS = 4  # of the picture before the last convolution


class Attention(nn.Module):
    """Attention of all tokens to all, with queries, keys and values each normalised head by head without affine."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, S, D] -> [N, S, D]."""
        n, s, _ = x.shape
        qkv = self.qkv(x).view(n, s, 3, self.num_heads, -1)
        centred = qkv - qkv.mean(dim=-1, keepdim=True)
        qkv = centred / (centred.square().mean(dim=-1, keepdim=True).sqrt() + _ATTENTION_EPS)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, S, D / heads]
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU (erf) between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, S, D] -> [N, S, D]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One transformer block. There is no norm before the attention: its own norms take that part."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool):
        super().__init__()
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, S, D] -> [N, S, D]."""
        x = x + self.attn(x)
        return x + self.mlp(self.norm2(x))


class Tower(nn.Module):
    """What encoder and decoder share: class token, position table, blocks, norm."""

    def __init__(self, grid: tuple[int, int, int], dim: int, depth: int, num_heads: int, mlp_ratio: float, qkv_bias: bool):
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1] * grid[2], dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, qkv_bias) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def positions(self, grid: tuple[int, int, int]) -> Tensor:
        """The position table for tokens of `grid` (time, height, width): [1, 1 + T*H*W, D], the class token first.

        The stored one is resized by trilinear interpolation where the grid differs, as it does in every official
        tile of 12 frames; the entry of the class token stays.
        """
        if grid == self.grid:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        table = rest.float().mT.unflatten(2, self.grid)  # [1, D, T, H, W]
        resized = F.interpolate(table, size=grid, mode="trilinear", align_corners=False)
        return torch.cat([first, resized.flatten(2).mT.to(first.dtype)], dim=1)

    def run(self, x: Tensor) -> Tensor:
        """Tokens [N, D, T, H, W] through the blocks and the norm: [N, T*H*W, D], time slowest, width fastest."""
        grid = (x.shape[2], x.shape[3], x.shape[4])
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(2).mT], dim=1)
        tokens = tokens + self.positions(grid)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1:]


class PatchEmbed(nn.Module):
    """Each patch of the video to one token."""

    def __init__(self, in_channels: int, dim: int, patch: tuple[int, int, int]):
        super().__init__()
        self.proj = nn.Conv3d(in_channels, dim, kernel_size=patch, stride=patch)

    def forward(self, video: Tensor) -> Tensor:
        """video [N, 3, F, H, W] -> [N, D, F / 4, H / 8, W / 8]."""
        return self.proj(video)


class Encoder(Tower):
    """Video [N, 3, F, H, W] in [-1, 1] -> moments [N, 2 Z, F / 4, H / 8, W / 8]: mean, then log variance."""

    def __init__(self, in_channels: int, z_channels: int, patch: tuple[int, int, int], dim: int, **tower: object):
        super().__init__(dim=dim, **tower)  # type: ignore[arg-type]
        self.patch_embed = PatchEmbed(in_channels, dim, patch)
        self.last_layer = nn.Linear(dim, 2 * z_channels)

    def forward(self, video: Tensor) -> Tensor:
        """F, H and W must be multiples of the patch."""
        tokens = self.patch_embed(video)
        return self.last_layer(self.run(tokens)).mT.unflatten(2, tokens.shape[2:])


class Decoder(Tower):
    """Latents [N, Z, T, H, W] -> video [N, 3, 4 T, 8 H, 8 W], nominally in [-1, 1], not clamped."""

    def __init__(
        self,
        out_channels: int,
        z_channels: int,
        patch: tuple[int, int, int],
        dim: int,
        use_final_proj: bool,
        **tower: object,
    ):
        super().__init__(dim=dim, **tower)  # type: ignore[arg-type]
        self.patch = patch
        self.proj_in = nn.Linear(z_channels, dim)
        pixels = patch[0] * patch[1] * patch[2]
        self.channels = _FINAL_CHANNELS if use_final_proj else dim // pixels
        if not use_final_proj and (dim % pixels or not self.channels):
            raise ValueError(f"embed_dim {dim} is no multiple of the {pixels} pixels of a patch: set use_final_proj")
        self.final_proj = nn.Linear(dim, self.channels * pixels) if use_final_proj else nn.Identity()
        self.last_layer = nn.Conv3d(self.channels, out_channels, kernel_size=3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Every latent frame becomes one patch of frames."""
        tokens = self.proj_in(latents.movedim(1, -1)).movedim(-1, 1)
        n, _, t, h, w = tokens.shape
        patches = self.final_proj(self.run(tokens)).view(n, t, h, w, *self.patch, self.channels)
        # [N, T, H, W, frame, row, column, channel] -> [N, channel, T, frame, H, row, W, column]
        video = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(
            n, self.channels, t * self.patch[0], h * self.patch[1], w * self.patch[2]
        )
        return self.last_layer(video)


class AutoencoderKLMagi(ModelMixin, ConfigMixin):
    """MAGI-1's "ViTVAE". Encoding and decoding are tiled and draw no random numbers.

    Latents are dimensionless; the pipeline multiplies them by `scaling_factor` for the transformer, and divides before
    decoding. Where the original does the wrong thing, `reference_behaviour=True` does it too; the default is right:

    * a last tile of one latent frame decodes to one frame (so the first chunk after a 32-frame prefix has 13 frames);
      by default to 4, so that T latent frames always are 4 T frames;
    * a last tile of 2 or 3 frames cannot be encoded; by default its last frame is repeated up to 4.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        video_size: int = 256,
        video_length: int = 16,
        patch_size: int = 8,
        patch_length: int = 4,
        use_final_proj: bool = False,
        scaling_factor: float = 0.18215,
        tile_sample_min_length: int = 12,
        tile_sample_min_height: int = 256,
        tile_sample_min_width: int = 256,
        spatial_overlap: float = 0.25,
    ):
        super().__init__()
        patch = (patch_length, patch_size, patch_size)
        tower = {
            "grid": (video_length // patch_length, video_size // patch_size, video_size // patch_size),
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
        }
        self.encoder = Encoder(in_channels, latent_channels, patch, embed_dim, **tower)
        self.decoder = Decoder(in_channels, latent_channels, patch, embed_dim, use_final_proj, **tower)

    @property
    def tiles(self) -> Tiles:
        """How videos are cut: sizes in pixels and frames, one patch in pixels and frames."""
        config = self.config
        return Tiles(
            length=config.tile_sample_min_length,
            height=config.tile_sample_min_height,
            width=config.tile_sample_min_width,
            overlap=config.spatial_overlap,
            patch_length=config.patch_length,
            patch_size=config.patch_size,
        )

    def encode_tile(self, video: Tensor, reference_behaviour: bool = False) -> Tensor:
        """One tile [N, 3, F, H, W] -> moments [N, 2 Z, T, H / 8, W / 8]; a single frame counts as one patch of equal ones.

        Raises ValueError where frames or sides do not fit the patch.
        """
        missing = -video.shape[2] % self.config.patch_length
        if missing and (video.shape[2] == 1 or not reference_behaviour):
            video = torch.cat([video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        if video.shape[2] % self.config.patch_length:
            raise ValueError(f"a tile of {video.shape[2]} frames is no multiple of {self.config.patch_length}")
        if video.shape[3] % self.config.patch_size or video.shape[4] % self.config.patch_size:
            raise ValueError(
                f"height {video.shape[3]} and width {video.shape[4]} must be multiples of {self.config.patch_size}"
            )
        return self.encoder(video)

    def decode_tile(self, latents: Tensor, reference_behaviour: bool = False) -> Tensor:
        """One tile of latents [N, Z, T, H, W] -> video [N, 3, 4 T, 8 H, 8 W]."""
        video: Tensor = self.decoder(latents)
        return video[:, :, :1] if reference_behaviour and latents.shape[2] == 1 else video

    def encode(self, x: Tensor, reference_behaviour: bool = False) -> AutoencoderKLOutput:
        """Video [N, 3, F, H, W] in [-1, 1] -> distribution of latents [N, Z, ceil(F / 4), H / 8, W / 8].

        MAGI-1 uses its mean: `vae.encode(x).latent_dist.mode()`.
        """
        moments = tiled_encode(lambda tile: self.encode_tile(tile, reference_behaviour), x, self.tiles)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: Tensor, reference_behaviour: bool = False) -> DecoderOutput:
        """Latents [N, Z, T, H, W], divided by `scaling_factor` -> video [N, 3, 4 T, 8 H, 8 W], not clamped."""
        return DecoderOutput(sample=tiled_decode(lambda tile: self.decode_tile(tile, reference_behaviour), z, self.tiles))
