"""One full-width block of an exported graph on ONNX Runtime against the model's block with the checkpoint's weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from export.check.accuracy import cosine, snr_db
from export.check.block import run_block
from export.check.blockwise import BlockInputs
from export.families.magi1.config import block_name
from export.families.magi1.graph import block_piece
from export.families.magi1.source import Source
from export.graph.lowering import Build
from videosdgx.families.magi1.network.block import MagiTransformerBlock


@torch.inference_mode()
def _expected(source: Source, index: int, given: BlockInputs) -> np.ndarray:
    """What the model's block `index` makes of `given`, in fp32."""
    config = source.config
    with torch.device("meta"):
        block = MagiTransformerBlock(
            config.hidden_size,
            config.ffn_hidden_size,
            config.text_size,
            config.condition_size,
            config.num_attention_heads,
            config.num_query_groups,
            config.attention_head_dim,
            config.eps,
            config.gated_linear_unit,
        ).eval()
    prefix = f"{block_name(index)}."
    own = {name.removeprefix(prefix): source.tensors[name].float() for name in source.tensors if name.startswith(prefix)}
    block.load_state_dict(own, assign=True)
    x, condition, cos, sin, text_kv, past = (torch.from_numpy(part) for part in given.values())
    result: np.ndarray = block(x, condition, (cos, sin), text_kv, past)[0].numpy()
    return result


def check(
    source: Source, given: Mapping[int, BlockInputs], build: Build, maxima: Mapping[str, float], scratch: Path
) -> dict[str, float]:
    """Cosine and signal-to-noise ratio of the blocks in `given` against the model's with the same weights.

    `block_cosine` is the worse of their outputs'. What a block adds to its input is a stricter measure, as the input
    passes unchanged: `block_change_snr_db` is the worse of those.
    """
    cosines, changes = [], []
    for index, inputs in given.items():
        prefix = f"{block_name(index)}."
        expected = _expected(source, index, inputs)
        made = run_block(block_piece(source.config, build, index), prefix, source.tensors, inputs, build, maxima, scratch)
        cosines.append(cosine(made, expected))
        changes.append(snr_db(made - inputs["x"], expected - inputs["x"]))
    return {"block_cosine": min(cosines), "block_change_snr_db": min(changes), "blocks_checked": float(len(given))}
