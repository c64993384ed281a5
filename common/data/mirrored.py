"""Classes that a horizontal flip turns into one another."""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = {"left": "right", "right": "left"}
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def mirrored_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of classes whose names differ in left and right alone."""
    by_key = {_key(name): name for name in names}
    pairs = [(name, by_key.get(_swapped(_key(name)))) for name in names if is_sided(name)]
    return [(name, other) for name, other in pairs if other is not None and name < other]


def is_sided(name: str) -> bool:
    """Whether the name of a class speaks of left or right."""
    return any(word in SIDES for word in _key(name).split())


def _key(name: str) -> str:
    """Return the words of a name: `turn_left`, `Turn Left` and `turnLeft` are one, and `cleft` is none of them."""
    return " ".join(re.findall(r"[^\W_]+", CAMEL.sub(" ", name))).lower()


def _swapped(key: str) -> str:
    return " ".join(SIDES.get(word, word) for word in key.split())
