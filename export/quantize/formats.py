"""FP8 and NVFP4 numbers: how a tensor becomes bytes and scales, and back.

FP8 is E4M3 (largest value 448) with one fp32 scale per tensor. NVFP4 is E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their
negatives), an E4M3 scale per 16 values along the last axis, and one fp32 scale per tensor. Rounding is to the nearest,
ties to the even code, as in the hardware's conversions.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

BLOCK = 16  # values that share a block scale
FP8_MAX = 448.0
FP4_MAX = 6.0
_EXPONENT = 0x7F800000  # of an fp32 number's bits
_TOPS = (FP4_MAX, 4.0)  # the values that the largest of a block may become
_CHUNK = 1 << 13  # blocks quantized at a time
_TINY = 1e-30  # an all-zero tensor still needs a scale to divide by


def fp8_scale(amax: Tensor) -> Tensor:
    """The fp32 scale that maps the largest absolute value `amax` onto E4M3's largest, to the last bit ModelOpt's."""
    return 1 / (FP8_MAX / amax.float().clamp_min(_TINY))


def nvfp4_scale(amax: Tensor) -> Tensor:
    """The fp32 global scale for the largest absolute value `amax`: the block scales then use all of E4M3."""
    return amax.float().clamp_min(_TINY) / (FP8_MAX * FP4_MAX)


def fp8_quantize(x: Tensor, scale: Tensor) -> Tensor:
    """`x / scale` as float8_e4m3fn, saturating, same shape."""
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)


def fp8_quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` as float8_e4m3fn and its fp32 scale.

    It multiplies where `fp8_quantize` divides, as ModelOpt does: the quotients differ in the last bit, which now and
    then moves a weight to the next E4M3 value.
    """
    amax = weight.float().abs().amax().clamp_min(_TINY)
    return (weight.float() * (FP8_MAX / amax)).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), fp8_scale(amax)


def fp8_dequantize(quantized: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of E4M3 numbers times `scale`, in `dtype`."""
    return (quantized.float() * scale).to(dtype)


def _nearest(size: Tensor) -> Tensor:
    """The nearest E2M1 value of fp32 `size` in 0..6: the grid's step is 0.5 below 2, 1 below 4, 2 above.

    Adding 1.5 * 2^23 steps leaves no bits below a step, so the addition itself rounds, ties to even.
    """
    power = (size.view(torch.int32) & _EXPONENT).view(torch.float32)  # the power of two at or below `size`
    shift = power.clamp_min_(1).mul_(0.5 * 1.5 * 2**23)
    return (size + shift).sub_(shift)


def _round_to_e2m1(x: Tensor) -> Tensor:
    """Nearest E2M1 value of fp32 `x`; beyond 6 is 6."""
    return torch.copysign(_nearest(x.abs().clamp_max(FP4_MAX)), x)


def _scaled_blocks(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """E2M1 values [..., n/16, 16] in fp32, and E4M3 block scales [..., n/16], of `x` [..., n]."""
    blocks = x.float().unflatten(-1, (-1, BLOCK))
    block_scale = fp8_quantize(blocks.abs().amax(-1) / FP4_MAX, scale)
    width = block_scale.float().unsqueeze(-1) * scale
    # A block whose scale rounds to zero holds nothing that E2M1 could show at this global scale.
    values = torch.where(width > 0, blocks / width, 0.0)
    return _round_to_e2m1(values), block_scale


def nvfp4_quantize_dequantize(x: Tensor, scale: Tensor) -> Tensor:
    """`x` [..., n] rounded to NVFP4 with block scales found on the spot, in the dtype of `x`; n is a multiple of 16."""
    values, block_scale = _scaled_blocks(x, scale)
    return (values * (block_scale.float().unsqueeze(-1) * scale)).flatten(-2).to(x.dtype)


def nvfp4_quantize(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Packed E2M1 codes uint8 [out, in/2] (even column in the low half) and E4M3 block scales [out, in/16].

    A block's scale puts its largest value at 6 or at 4, whichever gives the smaller squared error: between 4 and 6
    there is no value, so a block with much there is better off at 4 ("four over six", arXiv 2512.02010).

    Each thread works on pieces of its own, which stay in its cache. Sharing every small operation among the threads costs
    ten times as much on a busy machine, where each waits for the slowest each time.
    """
    blocks = weight.contiguous().view(-1, BLOCK)
    packed = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8)
    block_scale = torch.empty(len(blocks), 1, dtype=torch.float8_e4m3fn)

    def quantize(start: int) -> None:
        part = slice(start, start + _CHUNK)
        x = blocks[part].float()
        size, block_scale[part] = _best_block_scale(x.abs(), scale)
        packed[part] = _packed(size, x)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(quantize, range(0, len(blocks), _CHUNK)))
    finally:
        torch.set_num_threads(threads)  # a worker's choice is also that of threads to come
    return packed.view(weight.shape[0], -1), block_scale.view(weight.shape[0], -1)


def _best_block_scale(size: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """E2M1 values in fp32 of absolute values `size` [n, 16], and the E4M3 block scales [n, 1] of least squared error."""
    largest = size.amax(1, keepdim=True)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for top in _TOPS:
        block_scale = fp8_quantize(largest / top, scale)
        width = block_scale.float() * scale
        # A block whose scale rounds to zero holds nothing that E2M1 could show at this global scale.
        shown = _nearest((size / torch.where(width > 0, width, torch.inf)).clamp_max_(FP4_MAX))
        error = torch.addcmul(size, shown, width, value=-1).square_().sum(1, keepdim=True)
        if best is None:
            best = error, shown, block_scale
            continue
        better = error < best[0]
        # torch.where has no float8.
        chosen = torch.where(better, block_scale.view(torch.uint8), best[2].view(torch.uint8)).view(block_scale.dtype)
        best = torch.where(better, error, best[0]), torch.where(better, shown, best[1]), chosen
    assert best is not None
    return best[1], best[2]


def _packed(size: Tensor, x: Tensor) -> Tensor:
    """Two codes per byte, uint8 [n, 8], of E2M1 values `size` >= 0 with the signs of fp32 `x` [n, 16]; ends `size`."""
    halves = size.mul_(2).to(torch.uint8)  # 0, 1, 2, 3, 4 | 6, 8 | 12 become the codes 0 to 7
    code = halves - (halves > 4).view(torch.uint8) - (halves > 6).view(torch.uint8) - 3 * (halves > 8).view(torch.uint8)
    code |= (x.view(torch.int32) >> 28).bitwise_and_(8).to(torch.uint8)  # the sign is bit 3
    pair = code.view(torch.int16)  # the even column is the low byte
    return (pair | (pair >> 4)).to(torch.uint8)


def nvfp4_dequantize(packed: Tensor, block_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] in `dtype` of packed codes uint8 [out, in/2] and E4M3 block scales [out, in/16]."""
    code = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    step = (code & 7).float()
    size = torch.where(step <= 4, step / 2, torch.where(step <= 6, step - 2, FP4_MAX))
    values = torch.where(code >= 8, -size, size).unflatten(-1, (-1, BLOCK))
    return (values * (block_scale.float().unsqueeze(-1) * scale)).flatten(-2).to(dtype)
