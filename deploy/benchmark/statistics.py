"""Means over seeds, and differences between two rows over the same seeds with their interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation of n values; no deviation for one value."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of n paired differences, and the half-width of its 95 % interval; none for one pair."""

    mean: float
    half_width: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Its ends."""
        if self.half_width is None:
            return None, None
        return self.mean - self.half_width, self.mean + self.half_width


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and deviation, None for no values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
    return Spread(mean=mean, deviation=deviation, n=n)


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Return by how much `values` exceed `reference` over the seeds that both have, None if they have none in common.

    The interval is Student's for the mean of the differences: what makes a seed easy or hard for both cancels.
    """
    found = spread([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])
    if found is None:
        return None
    half_width = None
    if found.deviation is not None:
        half_width = t_quantile(found.n - 1) * found.deviation / math.sqrt(found.n)
    return Difference(mean=found.mean, half_width=half_width, n=found.n)


def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return the t within +-which a Student variable of so many degrees of freedom lies with this probability."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """Return P(|T| < sqrt(degrees) * tan(angle)) by the finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd, cos = degrees % 2, math.cos(angle)
    term, total = (cos if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cos**2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
