"""What a comparison with reference tensors is: its error and the most that is allowed."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """One compared quantity. A limit of 0 means exactly equal."""

    what: str
    error: float
    limit: float

    @property
    def severity(self) -> float:
        """The error as a multiple of its limit; not a number counts as infinite."""
        if self.error <= self.limit:
            return self.error / self.limit if self.limit else 0.0
        return self.error / self.limit if self.limit and self.error == self.error else float("inf")

    @property
    def passed(self) -> bool:
        return self.severity <= 1


def _same_shape(what: str, ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"{what} has shape {list(ours.shape)}, it must be {list(theirs.shape)}")


def largest(what: str, ours: Tensor, theirs: Tensor, limit: float) -> Check:
    """The largest difference, relative to the largest magnitude of the reference."""
    _same_shape(what, ours, theirs)
    difference = (ours.double() - theirs.double()).abs().max().item()
    return Check(what, difference / max(theirs.double().abs().max().item(), 1e-30), limit)


def absolute(what: str, ours: Tensor, theirs: Tensor, limit: float) -> Check:
    """The largest difference."""
    _same_shape(what, ours, theirs)
    return Check(what, (ours.double() - theirs.double()).abs().max().item() if ours.numel() else 0.0, limit)


def relative_l2(what: str, ours: Tensor, theirs: Tensor, limit: float) -> Check:
    """The norm of the difference over the norm of the reference."""
    _same_shape(what, ours, theirs)
    theirs = theirs.double()
    return Check(what, ((ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-30)).item(), limit)


def exact(what: str, equal: bool) -> Check:
    """Equality of anything."""
    return Check(what, 0.0 if equal else 1.0, 0.0)
