"""How far an engine is from the unquantized model: the measures, and the bars that an export has to pass."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of `reference`."""
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def cosine(value: np.ndarray, reference: np.ndarray) -> float:
    """Cosine of the angle between two arrays taken as vectors; 1 where they point the same way."""
    a, b = value.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def snr_db(value: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-noise ratio in dB: 20 is a tenth of the reference's norm."""
    return float(-20 * np.log10(max(relative_error(value, reference), 1e-10)))


def psnr_db(clip: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of a clip with values in 0..1; equal clips give 100."""
    return float(-10 * np.log10(max(float(np.mean((clip - reference) ** 2, dtype=np.float64)), 1e-10)))


def clip_figures(made: Iterable[np.ndarray], wanted: Iterable[np.ndarray]) -> dict[str, float]:
    """How many clips there are, and mean and least PSNR in dB of each against the wanted one."""
    psnr = [psnr_db(clip, other) for clip, other in zip(made, wanted, strict=True)]
    return {
        "clips": float(len(psnr)),
        "clip_psnr_db_mean": float(np.mean(psnr)),
        "clip_psnr_db_min": float(np.min(psnr)),
    }


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures to four significant digits, as a manifest keeps them."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def write_figures(path: Path, figures: Mapping[str, float]) -> None:
    """Figures, rounded, as JSON."""
    path.write_text(json.dumps(rounded(figures), indent=2))


@dataclass(frozen=True)
class Bar:
    """The least (or most) that one figure may be."""

    figure: str
    least: float | None = None
    most: float | None = None

    def failure(self, accuracy: Mapping[str, float]) -> str | None:
        """One phrase if `accuracy` has the figure and it is beyond the bar."""
        value = accuracy.get(self.figure)
        if value is None:
            return None
        if self.least is not None and not value >= self.least:
            return f"{self.figure} is {value:.4g}, at least {self.least:g} is required"
        if self.most is not None and not value <= self.most:
            return f"{self.figure} is {value:.4g}, at most {self.most:g} is allowed"
        return None
