"""Numbers that are none: what a damaged file and a training that failed have in common."""

import torch
from torch import Tensor


def first_not_finite(tensor: Tensor) -> str | None:
    """What the first NaN or infinity of a tensor of any shape is, and where: such as `NaN at [3, 0]`; None: all are finite.

    Integers and bool are finite, and so are E4M3 bytes; it costs one pass, and memory only where something is found.
    """
    if not tensor.is_floating_point():
        return None
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # float8 has no comparisons
    # A sum is not finite if one of its terms is not; sums that only overflow are looked at again.
    if torch.isfinite(tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)):
        return None
    wrong = (~torch.isfinite(tensor)).nonzero()
    if not len(wrong):
        return None
    place = wrong[0].tolist()
    value = float(tensor[tuple(place)])
    return f"{'NaN' if value != value else 'an infinite value'} at {place}" + (
        f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    )
