"""Counting what a PyTorch module does, on the meta device: shapes are computed, values are not, so size costs nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


@dataclass(frozen=True)
class Count:
    """What one call does: floating-point operations, bytes that operators read and write, most bytes alive at once."""

    flops: int
    moved_bytes: int
    peak_bytes: int


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class _Traffic(TorchDispatchMode):
    """Follows what operators compute, read and write, and the storages that they make until these are freed.

    Floating-point operations are by the formulas of `torch.utils.flop_counter`; its own counter also tells the modules
    apart, which takes several times as long.
    """

    def __init__(self) -> None:
        super().__init__()
        # Kept, not only noted: the address of a freed storage would be given to another one.
        self.before: dict[int, torch.UntypedStorage] = {}
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.flops = self.moved = self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        inputs = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in given)}
        self.before |= {key: storage for key, storage in inputs.items() if key not in self.made}
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        written = 0
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata in inputs and not func._schema.is_mutable:
                continue  # a view moves nothing
            written += tensor.numel() * tensor.element_size()
            if storage._cdata not in self.before and storage._cdata not in inputs:
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                self.live += storage.nbytes()
        if written:
            self.moved += written + sum(tensor.numel() * tensor.element_size() for tensor in given)
        if self.live > self.peak:  # only then does it matter what has been freed
            self.made = {key: entry for key, entry in self.made.items() if not entry[0].expired()}
            self.live = sum(size for _, size in self.made.values())
            self.peak = max(self.peak, self.live)
        return result


class _FusedAttention(TorchFunctionMode):
    """Has attention be one operation, as the kernels of a GPU do it: on the meta device it would fall apart into products."""

    def __init__(self, traffic: _Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = (args + tuple((kwargs or {}).get(name) for name in ("query", "key", "value")[len(args) :]))[:3]
        heads = (*query.shape[:-2], key.shape[-2], key.shape[-1])  # of keys that several query heads share, each counts
        self.traffic.flops += sdpa_flop_count(_four(query.shape), _four(heads), _four((*heads[:-1], value.shape[-1])))
        self.traffic.moved += sum(tensor.numel() * tensor.element_size() for tensor in (key, value))
        return query.new_empty((*query.shape[:-1], value.shape[-1]))  # which counts the query read and the result written


def _four(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape with all its leading dimensions but one folded into the first."""
    return (math.prod(shape[:-3]), *shape[-3:])


def count(call: Callable[[], object]) -> Count:
    """Run `call`, whose tensors are all on the meta device, and count.

    Bytes are those of eager PyTorch, without the scratch memory of single kernels; `scaled_dot_product_attention` is one
    kernel, whose scores never leave the chip.
    """
    with torch.no_grad(), _Traffic() as traffic, _FusedAttention(traffic):
        call()
    return Count(traffic.flops, traffic.moved, traffic.peak)


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
