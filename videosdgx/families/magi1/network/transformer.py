"""MAGI-1's transformer, numerically equal to the original (docs/specs/magi1.md, section 3), with its parameters' names.

Latents are fp32 [N, C, T, H, W]; a chunk is T / R latent frames; tokens are patches of 1 x 2 x 2, time slowest, width
fastest. Loaded with `torch_dtype=torch.bfloat16`, the parts listed in section 3.9 stay fp32 and the arithmetic is the
official mixed-precision flow; loaded in fp32 it is pure fp32. Made with the factory of an export (`build`) it is what an
engine computes.

Three ways in, which agree:

- `forward_chunk`: one chunk, given the keys and values of the chunks before it. It is what engines do.
- `evaluate`: the chunks of a window one after the other by `forward_chunk`, with a cache. It is what the sampler calls.
- `forward`: clips x chunks in one go with a mask over keys. It is for training; no cache.
"""

from collections.abc import Sequence
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from videosdgx.families.layers import Layers
from videosdgx.families.magi1.network.block import (
    INTERLEAVED_PIECES,
    LayerNormPlusOne,
    MagiTransformerBlock,
    OfficialLayers,
    block_name,
)
from videosdgx.families.magi1.network.cache import KeyValueCache
from videosdgx.families.magi1.network.embeddings import MagiCaptionEmbedder, MagiTimestepEmbedder
from videosdgx.families.magi1.network.kernels import same_everywhere
from videosdgx.families.magi1.network.rotary import MagiRotaryPosEmbed, token_positions

PATCH = 2  # pixels of the latent image a side


class _Blocks(nn.Module):
    def __init__(self, layers: list[MagiTransformerBlock], hidden_size: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.final_layernorm = LayerNormPlusOne(hidden_size, eps)


class _Head(nn.Module):
    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, PATCH * PATCH * out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.linear(x)
        return result


class MagiTransformer3DModel(ModelMixin, ConfigMixin):
    """The network of MAGI-1: base, distilled and distilled fp8 differ in `distilled` and `fp8_layers` only.

    Args:
        num_layers: L.
        hidden_size: h.
        ffn_hidden_size: width of the MLP, before doubling for the gate.
        num_attention_heads: H; H * attention_head_dim must be a multiple of 8.
        num_query_groups: G, the key/value heads; divides H.
        attention_head_dim: d, a multiple of 8.
        in_channels: as the network sees them (twice the latent's with `half_channel_vae`).
        out_channels: likewise.
        half_channel_vae: latents are given twice, and half of the output counts (24B).
        x_rescale_factor: the scale of the network's input; its output is divided by it.
        caption_channels: width of the text features.
        caption_max_length: rows of the null caption.
        gated_linear_unit: SiLU-gated MLP (24B) or GELU (4.5B).
        cond_hidden_ratio: width of the condition over h.
        xattn_cond_hidden_ratio: width of the text tokens over h.
        eps: of all layer norms.
        distilled: the network takes a step size.
        fp8_layers: indices of the layers in the official fp8 format.
        guidance: rows (time from which it holds, scale of the previous chunks, scale of the text) for base weights that want
            other scales than the official ones; the network itself does not use it.
        build: the factory of what differs in an export; none: the official layers. It is no part of the configuration.
    """

    ignore_for_config = ["build"]  # noqa: RUF012  (diffusers' name and type)

    # Compared with each part of a parameter's name; the scales are those of fp8 layers.
    _keep_in_fp32_modules = [  # noqa: RUF012  (diffusers' name and type)
        "x_embedder", "t_embedder", "y_embedder", "rope", "final_linear", "final_layernorm", "q_layernorm", "k_layernorm",
        "self_attn_post_norm", "mlp_post_norm", "weight_scale", "input_scale", "smooth_scale",
    ]  # fmt: skip
    _no_split_modules = ["MagiTransformerBlock"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        num_layers: int = 34,
        hidden_size: int = 3072,
        ffn_hidden_size: int = 12288,
        num_attention_heads: int = 24,
        num_query_groups: int = 8,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        half_channel_vae: bool = False,
        x_rescale_factor: float = 1.0,
        caption_channels: int = 4096,
        caption_max_length: int = 800,
        gated_linear_unit: bool = False,
        cond_hidden_ratio: float = 0.25,
        xattn_cond_hidden_ratio: float = 1.0,
        eps: float = 1e-6,
        distilled: bool = False,
        fp8_layers: Sequence[int] = (),
        guidance: Sequence[Sequence[float]] = (),
        build: Layers | None = None,
    ) -> None:
        super().__init__()
        self.builds_official_layers = build is None
        build = OfficialLayers(fp8_layers) if build is None else build
        self._compute_dtype = build.compute_dtype
        heads, groups = num_attention_heads, num_query_groups
        if heads % groups:
            raise ValueError(f"num_query_groups is {groups}, it must divide num_attention_heads, which is {heads}")
        if attention_head_dim % 8 or heads * attention_head_dim % INTERLEAVED_PIECES:
            raise ValueError(f"attention_head_dim is {attention_head_dim}, it must be a multiple of 8")
        condition_size, text_size = int(cond_hidden_ratio * hidden_size), int(xattn_cond_hidden_ratio * hidden_size)
        self.x_embedder = nn.Conv3d(in_channels, hidden_size, (1, PATCH, PATCH), (1, PATCH, PATCH), bias=False)
        self.t_embedder = MagiTimestepEmbedder(condition_size, build)
        self.y_embedder = MagiCaptionEmbedder(caption_channels, caption_max_length, text_size, condition_size, build)
        self.rope = MagiRotaryPosEmbed(attention_head_dim)
        layers = [
            MagiTransformerBlock(
                hidden_size,
                ffn_hidden_size,
                text_size,
                condition_size,
                heads,
                groups,
                attention_head_dim,
                eps,
                gated_linear_unit,
                build,
                block_name(index),
            )
            for index in range(num_layers)
        ]
        self.videodit_blocks = _Blocks(layers, hidden_size, eps)
        self.final_linear = _Head(hidden_size, out_channels)

    @property
    def layers(self) -> list[MagiTransformerBlock]:
        """The L blocks."""
        return cast(list[MagiTransformerBlock], list(self.videodit_blocks.layers))

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the residual stream, and of keys and values: that of the parameters that need not be fp32."""
        if self._compute_dtype is not None:
            return self._compute_dtype
        return next(self.layers[0].ada_modulate_layer.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        """Channels of the latents given and of the velocity returned."""
        channels: int = self.config.in_channels
        return channels // 2 if self.config.half_channel_vae else channels

    def to_compute_dtype(self, dtype: torch.dtype) -> "MagiTransformer3DModel":
        """Cast in place as `from_pretrained(torch_dtype=dtype)` does: the parts of section 3.9 become fp32."""
        for name, parameter in self.named_parameters():
            if parameter.is_floating_point():
                kept = set(name.split(".")) & set(self._keep_in_fp32_modules)
                parameter.data = parameter.data.to(torch.float32 if kept else dtype)
        return self

    def new_cache(self, height: int, width: int, chunk_width: int = 6, slots: int = 5) -> KeyValueCache:
        """A cache for latents of `height` x `width`; the shipped key ranges need 5 chunks at most, counting the window's."""
        config = self.config
        tokens = chunk_width * (height // PATCH) * (width // PATCH)
        shape = (config.num_layers, slots, tokens, config.num_query_groups, config.attention_head_dim)
        return KeyValueCache(*shape, dtype=self.compute_dtype, device=self.device)

    @same_everywhere
    def encode_text(self, encoder_hidden_states: Tensor) -> Tensor:
        """Keys and values of a text for every layer: they are the same for all steps.

        Args:
            encoder_hidden_states: [..., n, caption_channels], the kept positions only (or see `text_mask` of `forward`).

        Returns:
            [L, ..., n, G, 2d] in `compute_dtype`.
        """
        tokens = self.y_embedder(encoder_hidden_states).to(self.compute_dtype)
        return torch.stack([layer.self_attention.text_states(tokens) for layer in self.layers])

    def condition(self, timestep: Tensor, has_text: Tensor, step_size: Tensor | None) -> Tensor:
        """[..., c] in `compute_dtype`, from times [...], flags (bool, broadcastable to the times) and the step size [1]."""
        dtype = self.compute_dtype
        embedding = self.t_embedder(timestep, dtype)
        if step_size is not None:
            embedding = embedding + self.t_embedder(step_size, dtype)
        return (embedding + self.y_embedder.flag(has_text)).to(dtype)

    def patchify(self, hidden_states: Tensor) -> Tensor:
        """Tokens [N, T * H/2 * W/2, h] in `compute_dtype` of latents [N, C, T, H, W]."""
        scaled = (hidden_states * self.config.x_rescale_factor).to(self.x_embedder.weight.dtype)
        if self.config.half_channel_vae:
            scaled = torch.cat([scaled, scaled], dim=1)
        tokens: Tensor = self.x_embedder(scaled).flatten(2).transpose(1, 2)
        return tokens.to(self.compute_dtype)

    def unpatchify(self, tokens: Tensor, frames: int, height: int, width: int) -> Tensor:
        """The velocity [N, C, T, H, W] fp32 from the residual stream [N, T * H/2 * W/2, h]."""
        output = self.final_linear(self.videodit_blocks.final_layernorm(tokens))
        patches = output.unflatten(1, (frames, height // PATCH, width // PATCH)).unflatten(-1, (PATCH, PATCH, -1))
        video = patches[..., : self.latent_channels].permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return video / self.config.x_rescale_factor

    @same_everywhere
    def forward_chunk(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        has_text: Tensor,
        positions: Tensor,
        text_states: Tensor,
        past: Sequence[Tensor] | None = None,
        step_size: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """One chunk, given the keys and values of those before it that it sees.

        Args:
            hidden_states: [1, C, T, H, W] fp32.
            timestep: [1] fp32.
            has_text: bool [1].
            positions: [S, 3] fp32, of the chunk's tokens (`token_positions`).
            text_states: [L, n, G, 2d].
            past: for every layer [P, G, 2d].
            step_size: [1] fp32, for distilled models.

        Returns:
            The velocity [1, C, T, H, W] fp32, and for every layer the keys and values [S, G, 2d] of this chunk.
        """
        rotary = self.rope(positions, head_axis=True)  # once, and not in every layer
        condition = self.condition(timestep, has_text, step_size)
        x = self.patchify(hidden_states)
        if past is None:
            past = [text_states.new_empty(0, *text_states.shape[2:])] * len(self.layers)
        present = []
        for index, layer in enumerate(self.layers):
            x, kv = layer(x, condition, rotary, text_states[index], past[index])
            present.append(kv)
        return self.unpatchify(x, *hidden_states.shape[2:]), present

    @torch.no_grad()
    def evaluate(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text_states: Sequence[Tensor],
        *,
        first_chunk: int,
        ranges: Sequence[tuple[int, int]],
        has_text: bool,
        cache: KeyValueCache,
        store: int = 0,
        step_size: float | None = None,
    ) -> Tensor:
        """Consecutive chunks of one clip, one after the other; each sees the chunks of its range up to itself.

        Args:
            hidden_states: [1, C, R * chunk_width, H, W] fp32.
            timestep: [R] fp32, one for each chunk.
            text_states: one [L, n, G, 2d] for each chunk.
            first_chunk: index of the first of them in the video.
            ranges: for each chunk the first and the end of the chunks it sees (absolute, half open).
            has_text: the flag of section 3.4.
            cache: read before `first_chunk`; the chunks' own keys and values are written to it.
            store: how many of the leading chunks stay in the cache (clean ones); the others' are of use in this evaluation
                only.
            step_size: of distilled models.

        Returns:
            The velocity, shaped as `hidden_states`, fp32.

        Raises:
            CacheMissing: a chunk in range is neither of this evaluation nor stored.
            ValueError: a range that does not end with its chunk.
        """
        chunks = timestep.numel()
        for index, (first, end) in enumerate(ranges):
            if end != first_chunk + index + 1 or not 0 <= first < end:
                raise ValueError(f"chunk {first_chunk + index} cannot see chunks {first} to {end} (excluded)")
            cache.check(first, first_chunk)
        cache.make_room(min(first for first, _ in ranges), first_chunk + chunks)
        device = hidden_states.device
        flag = torch.tensor([has_text], device=device)
        delta = None if step_size is None else torch.tensor([step_size], device=device)
        velocities = []
        for index, part in enumerate(hidden_states.chunk(chunks, dim=2)):
            frames, height, width = part.shape[2:]
            chunk = first_chunk + index
            positions = token_positions(chunk * frames, frames, height // PATCH, width // PATCH, device)
            past = cache.past(ranges[index][0], chunk)
            velocity, present = self.forward_chunk(
                part, timestep[index : index + 1], flag, positions, text_states[index], past, delta
            )
            cache.write(chunk, present, store=index < store)
            velocities.append(velocity)
        return torch.cat(velocities, dim=2)

    @same_everywhere
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text_states: Tensor,
        text_mask: Tensor | None = None,
        *,
        has_text: Tensor | None = None,
        kv_range: Tensor | None = None,
        first_chunk: int = 0,
        step_size: Tensor | None = None,
    ) -> Tensor:
        """N clips of R chunks each, in one go.

        Args:
            hidden_states: [N, C, R * chunk_width, H, W] fp32.
            timestep: [N, R] fp32.
            text_states: [L, N * R, n, G, 2d] of `encode_text`, clip by clip, then chunk by chunk.
            text_mask: bool [N * R, n], True for the tokens that count; none: all.
            has_text: bool [N]; none: True.
            kv_range: [N * R, 2] half-open ranges of tokens that a chunk sees, counted from the first token of its clip;
                none: everything up to the chunk.
            first_chunk: index in the clip of the first chunk given; ranges before it are of no use here.
            step_size: a scalar, for distilled models.

        Returns:
            The velocity, shaped as `hidden_states`, fp32.
        """
        clips, chunks = timestep.shape
        _, _, frames, height, width = hidden_states.shape
        device = hidden_states.device
        if frames % chunks or height % PATCH or width % PATCH:
            raise ValueError(f"latents of {frames} x {height} x {width} are not {chunks} chunks of whole 1 x 2 x 2 patches")
        tokens = frames * (height // PATCH) * (width // PATCH)
        first_frame = first_chunk * (frames // chunks)
        rotary = self.rope(token_positions(first_frame, frames, height // PATCH, width // PATCH, device))
        if has_text is None:
            has_text = torch.ones(clips, dtype=torch.bool, device=device)
        step_size = None if step_size is None else step_size.reshape(1)
        condition = self.condition(timestep, has_text[:, None], step_size)
        mask = _range_mask(kv_range, clips, chunks, tokens // chunks, first_chunk, device)
        words = None if text_mask is None else text_mask.bool()[:, None, None, :]
        x = self.patchify(hidden_states)
        for index, layer in enumerate(self.layers):
            x, _ = layer(x, condition, rotary, text_states[index], mask=mask, text_mask=words)
        return self.unpatchify(x, frames, height, width)


def _range_mask(
    kv_range: Tensor | None, clips: int, chunks: int, tokens: int, first_chunk: int, device: torch.device
) -> Tensor | None:
    """Bool [N or 1, 1, R * S, R * S]: which keys each query sees; none where a single chunk sees itself."""
    if kv_range is None:
        if chunks == 1:
            return None
        end = torch.arange(first_chunk + 1, first_chunk + chunks + 1, device=device) * tokens
        kv_range = torch.stack([torch.zeros_like(end), end], dim=-1)
    ranges = kv_range.to(device).view(-1, chunks, 2).repeat_interleave(tokens, dim=1)
    key = torch.arange(chunks * tokens, device=device) + first_chunk * tokens
    seen = (key >= ranges[..., :1]) & (key < ranges[..., 1:])
    return seen[:, None]
