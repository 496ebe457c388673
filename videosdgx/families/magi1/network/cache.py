"""Keys and values of chunks, by layer, in buffers of fixed size (docs/specs/magi1.md, section 5).

One buffer a layer, [slots * tokens, G, 2d], holds consecutive chunks, so that the keys before a chunk are a view. It holds
the chunks of the evaluation that runs, and those that were stored (clean chunks, which later evaluations read). When an
evaluation needs room at the end, the oldest chunks leave: memory does not grow with the length of the video.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class CacheMissing(LookupError):
    """Keys of a chunk are needed that are not (or no longer) stored: it must be evaluated again."""

    def __init__(self, chunk: int) -> None:
        super().__init__(f"keys and values of chunk {chunk} are not stored")
        self.chunk = chunk


class KeyValueCache:
    """Keys and values [tokens, G, 2d] of every layer and chunk; chunks are counted from the start of the video."""

    def __init__(
        self,
        num_layers: int,
        slots: int,
        tokens: int,
        num_query_groups: int,
        attention_head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (slots * tokens, num_query_groups, 2 * attention_head_dim)
        self.slots, self.tokens = slots, tokens
        self.layers = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.base = 0
        self.stored: set[int] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(layer.nbytes for layer in self.layers)

    def _rows(self, first: int, end: int) -> slice:
        return slice((first - self.base) * self.tokens, (end - self.base) * self.tokens)

    def make_room(self, first: int, end: int) -> None:
        """Have slots for the chunks `first` to `end` (excluded); what is kept of the others is as much as fits.

        Raises:
            ValueError: more chunks than there are slots.
        """
        if not 0 <= first < end:
            raise ValueError(f"chunks {first} to {end} are not a range")
        if end - first > self.slots:
            raise ValueError(f"chunks {first} to {end} need {end - first} slots, the cache has {self.slots}")
        base = min(first, max(self.base, end - self.slots))
        moved = base - self.base
        if not moved:
            return
        kept = (self.slots - abs(moved)) * self.tokens
        if kept > 0:
            shift = abs(moved) * self.tokens
            source, target = (slice(shift, None), slice(kept)) if moved > 0 else (slice(kept), slice(shift, None))
            for layer in self.layers:
                layer[target] = layer[source].clone()
        self.base = base
        self.stored = {chunk for chunk in self.stored if base <= chunk < base + self.slots}

    def check(self, first: int, end: int) -> None:
        """Raise `CacheMissing` for the first of the chunks `first` to `end` (excluded) that is not stored."""
        for chunk in range(first, end):
            if chunk not in self.stored:
                raise CacheMissing(chunk)

    def past(self, first: int, end: int) -> list[Tensor]:
        """A view [(end - first) * tokens, G, 2d] for every layer."""
        return [layer[self._rows(first, end)] for layer in self.layers]

    def write(self, chunk: int, present: Sequence[Tensor], store: bool) -> None:
        """Put the keys and values [tokens, G, 2d] of a chunk, for this evaluation only unless `store`."""
        for layer, values in zip(self.layers, present, strict=True):
            layer[self._rows(chunk, chunk + 1)] = values
        self.keep(chunk, store)

    def keep(self, chunk: int, store: bool) -> None:
        """Say whether a chunk's keys and values, which are in their place, are of use after this evaluation."""
        if store:
            self.stored.add(chunk)
        else:
            self.stored.discard(chunk)
