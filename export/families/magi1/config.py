"""What shapes MAGI-1's transformer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from videosdgx.families.magi1.network.block import block_name as block_name
from videosdgx.families.magi1.network.transformer import PATCH as PATCH

CHUNK_FRAMES = 6  # latent frames of a chunk


@dataclass(frozen=True)
class MagiConfig:
    """The entries of a transformer's config.json that shape the network (names of `MagiTransformer3DModel`)."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    caption_channels: int
    caption_max_length: int
    half_channel_vae: bool = False
    x_rescale_factor: float = 1.0
    gated_linear_unit: bool = False
    cond_hidden_ratio: float = 0.25
    xattn_cond_hidden_ratio: float = 1.0
    eps: float = 1e-6
    distilled: bool = False

    @property
    def condition_size(self) -> int:
        """Width of the condition (c in the specification)."""
        return int(self.cond_hidden_ratio * self.hidden_size)

    @property
    def text_size(self) -> int:
        """Width of the text's tokens inside the network."""
        return int(self.xattn_cond_hidden_ratio * self.hidden_size)

    @property
    def query_size(self) -> int:
        """Width of all query heads together (H * d)."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key, and of all value heads together (G * d)."""
        return self.num_query_groups * self.attention_head_dim

    @property
    def latent_channels(self) -> int:
        """Channels of the latents given and of the velocity returned."""
        return self.in_channels // 2 if self.half_channel_vae else self.in_channels

    @property
    def block(self) -> dict[str, Any]:
        """What shapes one layer, as `MagiTransformerBlock` names it."""
        return {
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size,
            "text_size": self.text_size,
            "condition_size": self.condition_size,
            "heads": self.num_attention_heads,
            "groups": self.num_query_groups,
            "head_dim": self.attention_head_dim,
            "eps": self.eps,
            "gated": self.gated_linear_unit,
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "MagiConfig":
        """From the content of config.json; entries that do not shape the network are left out."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})
