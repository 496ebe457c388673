"""The operations that transformers are made of, for planning."""

from export.planning.gb10 import Arithmetic
from export.planning.work import Operation

VALUE = 2  # bytes of one activation in fp16 or bf16


def linear(name: str, arithmetic: Arithmetic, rows: int, in_features: int, out_features: int, weight_bytes: float) -> Operation:
    """A linear layer over `rows` rows; `weight_bytes` are read once."""
    moved = weight_bytes + VALUE * rows * (in_features + out_features)
    return Operation(name, arithmetic, 2 * rows * in_features * out_features, moved)


def attention(name: str, arithmetic: Arithmetic, queries: int, keys: int, width: int, kv_width: int | None = None) -> Operation:
    """Two products of queries x keys x width; fused, so that the scores never leave the chip.

    `kv_width` is that of keys and of values where it is less than the queries' (grouped-query attention).
    """
    moved = VALUE * 2 * (queries * width + keys * (width if kv_width is None else kv_width))
    return Operation(name, arithmetic, 4 * queries * keys * width, moved)
