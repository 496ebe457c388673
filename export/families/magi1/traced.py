"""MAGI-1's network as it is traced: what the graphs take and give by name, and marks where its blocks belong.

The network is the one that runs in PyTorch (`videosdgx.families.magi1.network`), made of an export's layers. There are two
graphs (see `videosdgx.families.magi1.engine.graphs`): one chunk, given the keys and values before it and those of the text,
which the other one makes. Parameter names are the checkpoint's.

Dtypes follow the precision map (docs/specs/magi1.md, section 3.9): the residual stream, products and attention are in the
compute dtype, norms, rotary embedding, gates and sums in fp32, and so are the embeddings of latents, time and text and the
head. One thing differs where the compute dtype is not fp32: the joint projection of the attentions, whose fp32 sums the
official code keeps, is rounded once to the compute dtype, as it is in the official fp8 layers.

Shapes: S tokens of the chunk, P tokens before it, n tokens of the text, h hidden size, H query heads and G key/value heads
of d numbers, c condition width, L layers.
"""

from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor, nn

from export.families.magi1.config import MagiConfig, block_name
from export.graph.lowering import Build
from export.quantize.operators import cached_block
from videosdgx.families.magi1.network.block import MagiTransformerBlock
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel


class BlockMark(nn.Module):
    """Marks where block `index` belongs, so that one block is traced instead of forty-eight."""

    def __init__(self, index: int, config: MagiConfig) -> None:
        super().__init__()
        self.index, self.groups, self.width = index, config.num_query_groups, 2 * config.attention_head_dim

    def forward(self, x: Tensor, condition: Tensor, rotary: tuple[Tensor, Tensor], *states: Tensor) -> tuple[Tensor, Tensor]:
        """Same inputs and outputs as `MagiTransformerBlock` has for one chunk."""
        return cached_block(x, [condition, *rotary, *states], self.index, self.groups, self.width)


class ChunkFrame(MagiTransformer3DModel):
    """Everything of the chunk's graph but the blocks."""

    def __init__(self, config: MagiConfig, build: Build) -> None:
        super().__init__(**asdict(config), build=build)
        self.videodit_blocks.layers = nn.ModuleList(BlockMark(index, config) for index in range(config.num_layers))

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        has_text: Tensor,
        positions: Tensor,
        text_kv: Tensor,
        past_kv: Sequence[Tensor],
        step_size: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """`forward_chunk`: the velocity [1, C, T, H, W] fp32, then present_kv [S, G, 2d] of every layer."""
        velocity, present = self.forward_chunk(hidden_states, timestep, has_text, positions, text_kv, past_kv, step_size)
        return (velocity, *present)


class Block(MagiTransformerBlock):
    """Block `index` for one chunk."""

    def __init__(self, index: int, config: MagiConfig, build: Build) -> None:
        super().__init__(**config.block, build=build, name=block_name(index))

    def forward(  # type: ignore[override]
        self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor, text_kv: Tensor, past_kv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x [1, S, h], condition [1, c], cos and sin [S, 1, 3d/8], text_kv [n, G, 2d], past_kv [P, G, 2d] -> x, present_kv."""
        return super().forward(x, condition, (cos, sin), text_kv, past_kv)


class Text(MagiTransformer3DModel):
    """The keys and values that the blocks make of a text, constant over all steps."""

    def __init__(self, config: MagiConfig, build: Build) -> None:
        super().__init__(**asdict(config), build=build)

    def forward(self, encoder_hidden_states: Tensor) -> Tensor:  # type: ignore[override]
        """`encode_text`: features [n, caption_channels] fp32 -> text_kv [L, n, G, 2d] in the compute dtype."""
        return self.encode_text(encoder_hidden_states)
