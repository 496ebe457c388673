import pytest
import torch

from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel

# Variant: parameters without the scales of the fp8 format, tensors, bytes in memory when loaded in bfloat16.
FACTS = {
    "4.5b-base": (4_459_898_128, 898, 8.96e9),
    "4.5b-distill": (4_459_898_128, 898, 8.96e9),
    "4.5b-distill-fp8": (4_459_898_128, 1410, 5.14e9),
    "24b-base": (23_899_281_936, 1262, 47.88e9),
    "24b-distill": (23_899_281_936, 1262, 47.88e9),
    "24b-distill-fp8": (23_899_281_936, 1998, 26.47e9),
}


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_size_is_the_published_one(variant: str) -> None:
    parameters, tensors, size = FACTS[variant]
    with torch.device("meta"):
        model = MagiTransformer3DModel(**TRANSFORMERS[variant]).to_compute_dtype(torch.bfloat16)
    state = model.state_dict()
    assert sum(value.numel() for name, value in state.items() if not name.endswith("_scale")) == parameters
    assert len(state) == tensors
    assert sum(value.nbytes for value in state.values()) == pytest.approx(size, rel=1e-3)
