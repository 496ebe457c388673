"""Wan 2.1's video decoder as it is exported: the arithmetic of diffusers' AutoencoderKLWan, one latent frame at a time.

diffusers keeps the last frames of every causal convolution in a list that it changes as it goes, with the marker "Rep"
for a convolution that the first frame skips. Here the list comes in and goes out, always with two frames: zeros where
diffusers has none yet, which is what it pads with. So there are two modules: one for the first latent frame, which makes
one frame of video and has no past, and one for each later frame, which makes four. (docs/specs/wan21.md, section 6)

Differences from diffusers, none of which changes a value: before the first frame there are only zeros, so its
convolutions keep just the last plane of their kernels; lengths in norms are fp32 whatever the compute dtype is; the 2-D
convolutions are written as 3-D ones of one plane, so that frames need not change places with channels.

Shapes: B batch, T frames of this step at this depth, C channels, h x w the latent's size times the depth's scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HISTORY = 2  # frames that a causal convolution of 3 planes looks back


@dataclass(frozen=True)
class VaeConfig:
    """The entries of a VAE's config.json that shape the decoder (diffusers' names)."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    is_residual: bool = False
    out_channels: int = 3
    patch_size: int | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "VaeConfig":
        """From the content of config.json; entries that do not shape the decoder are left out."""
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        for name in ("dim_mult", "temperal_downsample"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)

    @property
    def widths(self) -> list[int]:
        """Channels before the first block and after each block, deepest first."""
        dim = self.decoder_base_dim or self.base_dim
        return [dim * mult for mult in (self.dim_mult[-1], *reversed(self.dim_mult))]

    @property
    def doubles_time(self) -> list[bool]:
        """For each block that doubles height and width: does it double the frames too?"""
        return list(reversed(self.temperal_downsample))


@dataclass(frozen=True)
class Step:
    """Which of the two modules is built, and what it computes and stores its convolutions in.

    `emulated`: convolutions add up in fp32, as a GPU's do; a CPU has none in fp16 that are not a hundred times slower.
    """

    first: bool
    dtype: torch.dtype
    emulated: bool = False


@dataclass
class Past:
    """The frames that causal convolutions remember: taken in order from `before` (None: none yet), given to `after`."""

    before: list[Tensor] | None
    after: list[Tensor] = field(default_factory=list)

    def join(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w] with what went before it: [B, C, 2 + T, h, w]; without a past, as it is."""
        if self.before is None:
            self.after.append(torch.cat([torch.zeros_like(x)] * (HISTORY - 1) + [x], 2))
            return x
        joined = torch.cat([self.before[len(self.after)], x], 2)
        self.after.append(joined[:, :, -HISTORY:])
        return joined

    def skip(self, x: Tensor) -> None:
        """The first frame does not go through this convolution: to the next step, only zeros came before."""
        self.after.append(torch.cat([torch.zeros_like(x)] * HISTORY, 2))


class Conv(nn.Module):
    """A convolution [out, in, planes, k, k] that keeps height and width, and consumes all but one of its planes in time."""

    def __init__(self, in_channels: int, out_channels: int, planes: int, size: int, step: Step) -> None:
        super().__init__()
        shape = (out_channels, in_channels, planes, size, size)
        self.weight = nn.Parameter(torch.empty(shape, dtype=step.dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_channels, dtype=step.dtype), requires_grad=False)
        self.padding, self.emulated = (0, size // 2, size // 2), step.emulated

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, planes - 1 + T, h, w] -> [B, out, T, h, w]."""
        if self.emulated:
            return F.conv3d(x.float(), self.weight.float(), self.bias.float(), padding=self.padding).to(x.dtype)
        return F.conv3d(x, self.weight, self.bias, padding=self.padding)


class CausalConv(Conv):
    """A convolution over the past two frames and the present one."""

    def __init__(self, in_channels: int, out_channels: int, step: Step, size: int = 3) -> None:
        super().__init__(in_channels, out_channels, 1 if step.first else HISTORY + 1, size, step)

    def after(self, x: Tensor, past: Past) -> Tensor:
        """[B, in, T, h, w] -> [B, out, T, h, w]."""
        return self(past.join(x))


class ChannelNorm(nn.Module):
    """x / |x| over the channels times sqrt(C) gamma.

    The length is found in fp32; the product is in the compute dtype. In fp32 as well it would make the compiler keep the
    widest frames in fp32: 2.00 GB of activations instead of 1.54 for frames of 832 x 480.
    """

    def __init__(self, dim: int, axes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty((dim, *[1] * axes), dtype=dtype), requires_grad=False)
        self.scale, self.largest = dim**0.5, torch.finfo(dtype).max

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, h, w] -> the same shape and dtype."""
        length = x.float().square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        factor = (self.scale / length).clamp_max(self.largest)  # zeros must not meet infinity
        return x * factor.to(x.dtype) * self.gamma.reshape(-1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, causal convolution, twice; plus the input."""

    def __init__(self, in_dim: int, out_dim: int, step: Step) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_dim, 3, step.dtype)
        self.conv1 = CausalConv(in_dim, out_dim, step)
        self.norm2 = ChannelNorm(out_dim, 3, step.dtype)
        self.conv2 = CausalConv(out_dim, out_dim, step)
        self.conv_shortcut = Conv(in_dim, out_dim, 1, 1, step) if in_dim != out_dim else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """[B, in, T, h, w] -> [B, out, T, h, w]."""
        y = self.conv1.after(F.silu(self.norm1(x)), past)
        y = self.conv2.after(F.silu(self.norm2(y)), past)
        return y + self.conv_shortcut(x)


class MiddleAttention(nn.Module):
    """Attention with one head over the positions of the one frame that there is at this depth.

    Written out: TensorRT has no fused kernel for a head as wide as this one (384), and refuses the ONNX operator for it.
    """

    def __init__(self, dim: int, step: Step) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim, 2, step.dtype)
        self.to_qkv = Conv(dim, 3 * dim, 1, 1, step)
        self.proj = Conv(dim, dim, 1, 1, step)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, h, w] -> the same shape."""
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).chunk(3, 1)  # [B, C, h w] each
        share = (q.transpose(1, 2) * q.shape[1] ** -0.5 @ k).softmax(-1)
        return x + self.proj((v @ share.transpose(1, 2)).unflatten(2, x.shape[2:]))


class MiddleBlock(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, dim: int, step: Step) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(dim, dim, step) for _ in range(2))
        self.attentions = nn.ModuleList([MiddleAttention(dim, step)])

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """[B, C, 1, h, w] -> the same shape."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x, past)), past)


class Upsample(nn.Module):
    """Twice the height and width, and, if `doubles_time` and it is not the first step, twice the frames."""

    def __init__(self, dim: int, out_dim: int, doubles_time: bool, step: Step) -> None:
        super().__init__()
        self.resample = nn.ModuleList([nn.Identity(), Conv(dim, out_dim, 1, 3, step)])  # the checkpoint calls it resample.1
        self.doubles_time = doubles_time
        if doubles_time and not step.first:
            self.time_conv = CausalConv(dim, 2 * dim, step, size=1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """[B, C, T, h, w] -> [B, out, T or 2 T, 2 h, 2 w]."""
        if self.doubles_time and past.before is None:
            past.skip(x)
        elif self.doubles_time:
            pairs = self.time_conv.after(x, past).unflatten(1, (2, -1))  # [B, 2, C, T, h, w]
            x = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return self.resample[1](F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest"))


class Shortcut(nn.Module):
    """The residual layout's way past a block: channels repeated and dealt out over time, rows and columns."""

    def __init__(self, in_dim: int, out_dim: int, doubles_time: bool, step: Step) -> None:
        super().__init__()
        self.time, self.out_dim, self.first = 2 if doubles_time else 1, out_dim, step.first
        self.repeats = out_dim * self.time * 4 // in_dim

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, T, h, w] -> [B, out, time T, 2 h, 2 w]; of the first frame only the last of the doubled ones."""
        b, c, t, h, w = x.shape
        x = x.unsqueeze(2).expand(b, c, self.repeats, t, h, w)
        x = x.reshape(b, self.out_dim, self.time, 2, 2, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
        if self.first:
            x = x[:, :, :, -1:]
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class UpBlock(nn.Module):
    """Residual blocks, then (all but the last) an upsampling; the residual layout adds a way past both."""

    def __init__(self, config: VaeConfig, index: int, step: Step) -> None:
        super().__init__()
        in_dim, out_dim = config.widths[index : index + 2]
        upsamples = index < len(config.dim_mult) - 1
        doubles_time = upsamples and config.doubles_time[index]
        if index > 0 and not config.is_residual:
            in_dim //= 2
        dims = [in_dim] + [out_dim] * config.num_res_blocks
        self.resnets = nn.ModuleList(ResidualBlock(dim, out_dim, step) for dim in dims)
        self.upsampler, self.upsamplers, self.shortcut = None, None, None
        if upsamples and config.is_residual:
            self.upsampler = Upsample(out_dim, out_dim, doubles_time, step)
            self.shortcut = Shortcut(in_dim, out_dim, doubles_time, step)
        elif upsamples:
            self.upsamplers = nn.ModuleList([Upsample(out_dim, out_dim // 2, doubles_time, step)])

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """[B, in, T, h, w] -> [B, out, T or 2 T, h or 2 h, w or 2 w]."""
        given = x
        for resnet in self.resnets:
            x = resnet(x, past)
        if self.upsamplers is not None:
            return self.upsamplers[0](x, past)
        if self.upsampler is not None and self.shortcut is not None:
            return self.upsampler(x, past) + self.shortcut(given)
        return x


class Decoder(nn.Module):
    """Everything after the first 1 x 1 convolution; named as in the checkpoint."""

    def __init__(self, config: VaeConfig, step: Step) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv(config.z_dim, widths[0], step)
        self.mid_block = MiddleBlock(widths[0], step)
        self.up_blocks = nn.ModuleList(UpBlock(config, index, step) for index in range(len(config.dim_mult)))
        self.norm_out = ChannelNorm(widths[-1], 3, step.dtype)
        self.conv_out = CausalConv(widths[-1], config.out_channels, step)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """[B, 16, 1, h, w] -> [B, out_channels, 1 or 4, 8 h / patch, 8 w / patch]."""
        x = self.mid_block(self.conv_in.after(x, past), past)
        for block in self.up_blocks:
            x = block(x, past)
        return self.conv_out.after(F.silu(self.norm_out(x)), past)


class LoweredVaeDecoder(nn.Module):
    """One step of decoding: a latent frame and the cache in, frames of video and the new cache out."""

    def __init__(self, config: VaeConfig, step: Step) -> None:
        super().__init__()
        self.dtype, self.patch = step.dtype, config.patch_size or 1
        self.post_quant_conv = Conv(config.z_dim, config.z_dim, 1, 1, step)
        self.decoder = Decoder(config, step)

    def forward(self, latent: Tensor, cache: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """latent fp32 [B, 16, 1, h, w] and, after the first step, the cache -> frames fp32 [B, 3, T, 8 h, 8 w], new cache.

        Frames are not clamped: tiles are blended before they are.
        """
        past = Past(None if cache is None else list(cache))
        x = self.decoder(self.post_quant_conv(latent.to(self.dtype)), past).float()
        if self.patch > 1:
            x = x.unflatten(1, (-1, self.patch, self.patch)).permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
        return (x, *past.after)


def decoder_tensors(tensors: Mapping[str, Tensor], first: bool) -> dict[str, Tensor]:
    """The decoder's part of a checkpoint as the lowered module of one step holds it (shapes; dtypes stay)."""
    held = {}
    for name, tensor in tensors.items():
        if not name.startswith(("decoder.", "post_quant_conv.")) or (first and "time_conv" in name):
            continue
        if tensor.ndim == 4 and name.endswith(".weight"):
            tensor = tensor.unsqueeze(2)
        if first and tensor.ndim == 5:
            tensor = tensor[:, :, -1:]
        held[name] = tensor
    return held
