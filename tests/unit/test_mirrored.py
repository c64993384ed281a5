from __future__ import annotations

import pytest

from aplt.common.data.mirrored import is_sided, mirrored_pairs


@pytest.mark.parametrize("name", ["turn left", "Turn_Left", "turnLeft", "LEFT-hand up", "right", "swipe.right.2"])
def test_names_that_speak_of_a_side(name: str) -> None:
    assert is_sided(name)


@pytest.mark.parametrize("name", ["cleft", "bright", "copyright", "leftover", "upright", "nodding", ""])
def test_names_that_only_hold_the_letters(name: str) -> None:
    assert not is_sided(name)


def test_pairs_differ_in_the_side_alone() -> None:
    names = ["turn left", "Turn_Right", "wave left hand", "wave hand", "left then right", "right then left", "nod"]
    assert mirrored_pairs(sorted(names)) == [("Turn_Right", "turn left"), ("left then right", "right then left")]
    assert mirrored_pairs(["wave left", "nod"]) == []
