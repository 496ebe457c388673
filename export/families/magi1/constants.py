"""The tensors of MAGI-1's chunk graph that a checkpoint does not hold as they are."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from videosdgx.families.magi1.network.embeddings import timestep_frequencies

# What the constants are made from; the graphs hold them in no other form.
MADE_FROM = ("y_embedder.null_caption_embedding", "y_embedder.y_proj_adaln.0.weight", "y_embedder.y_proj_adaln.0.bias")


def constants(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sinusoid's frequencies [128] and the two flags [2, c] ("has text" first), fp32, for a checkpoint's tensors.

    A flag is a projection of one of the last two rows of the null caption (docs/specs/magi1.md, section 3.4).
    """
    table, weight, bias = (tensors[name].float() for name in MADE_FROM)
    return {
        "t_embedder.frequencies": timestep_frequencies(),
        "y_embedder.flags": F.linear(table[-2:], weight, bias),
    }
