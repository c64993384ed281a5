"""Which clips are for testing, and which training clips show their label.

Nothing here draws random numbers: clips are ordered by a hash of (seed, purpose, class, clip id), and a split takes
from the front of that order. A larger ratio therefore contains a smaller one, new clips do not reshuffle the old
ones, and no library version changes a split.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aplt.common.errors import DataError


class TestRule(BaseModel):
    """How test clips are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    rule: Literal["group", "random", "given"] = "random"
    """group: whole groups (subjects); random: clips of every class; given: the table's split column."""
    every: Annotated[int, Field(ge=2)] = 3
    """Every n-th group in sorted order, or every n-th clip of each class in a shuffled order, from the first on."""
    groups: tuple[str, ...] | None = None
    """With rule group: exactly these groups, and `every` is not used."""

    @model_validator(mode="after")
    def _fits(self) -> TestRule:
        if self.groups is not None and self.rule != "group":
            raise ValueError(f"groups are for rule: group, not for rule: {self.rule}")
        if self.groups is not None and not self.groups:
            raise ValueError("groups is empty: name the test groups or leave it out")
        return self


class LabeledRule(BaseModel):
    """How the training clips whose label may be seen are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rule: Literal["per_class", "given"] = "per_class"
    """per_class: the same share of every class; given: every training clip with a known label."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """With rule per_class: the share; of n clips max(1, floor(ratio * n + 0.5)) are labelled."""


def draw_test(
    labels: Mapping[str, str | None],
    *,
    groups: Mapping[str, str],
    given: Mapping[str, str],
    rule: TestRule,
    seed: int,
) -> set[str]:
    """Return the clip ids of the test set.

    Args:
        labels: Class of every clip by clip id, None where unknown. Rule random leaves those in the training set.
        groups: Group of every clip, "" where unknown.
        given: Split column of every clip, "" where there is none.
        rule: What to do.
        seed: Of the random rule.

    Raises:
        DataError: the rule needs groups or a split column that the clips do not have.
    """
    if rule.rule == "random":
        return {
            clip_id
            for name, clip_ids in _by_class(labels).items()
            for clip_id in shuffled(clip_ids, seed=seed, purpose=f"test/{name}")[:: rule.every]
        }
    if rule.rule == "given":
        if not any(given.values()):
            raise DataError(
                "data.test.rule is given, but no clip has a split: use the csv adapter with a `split` column of "
                "train and test, or another rule (group, random)"
            )
        return {clip_id for clip_id, split in given.items() if split == "test"}
    return _draw_groups(groups, rule)


def draw_labeled(labels: Mapping[str, str | None], *, rule: LabeledRule, seed: int) -> list[str]:
    """Return the sorted ids of the training clips whose label may be seen.

    `labels` holds the training clips alone; those whose class is None are never drawn.
    """
    if rule.rule == "given":
        return sorted(clip_id for clip_id, label in labels.items() if label is not None)
    drawn: list[str] = []
    for name, clip_ids in _by_class(labels).items():
        count = max(1, math.floor(rule.ratio * len(clip_ids) + 0.5))
        drawn += shuffled(clip_ids, seed=seed, purpose=f"labeled/{name}")[:count]
    return sorted(drawn)


def require_labeled_classes(class_names: Sequence[str], labeled: Mapping[str, str], *, where: str) -> None:
    """Raise DataError unless every class has a labelled training clip; without one it cannot be learnt at all."""
    missing = [name for name in class_names if name not in set(labeled.values())]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(class_names)} classes have no labelled training clip {where} "
            f"({', '.join(missing[:5])}): add clips or labels of them, leave the classes out, or change data.test"
        )


def shuffled(clip_ids: Sequence[str], *, seed: int, purpose: str) -> list[str]:
    """Return the ids in an order that depends on nothing but the seed, the purpose and each id."""

    def key(clip_id: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{purpose}\0{clip_id}".encode("utf-8", "surrogateescape")).digest()

    return sorted(clip_ids, key=key)


def _by_class(labels: Mapping[str, str | None]) -> dict[str, list[str]]:
    clips: dict[str, list[str]] = defaultdict(list)
    for clip_id, label in labels.items():
        if label is not None:
            clips[label].append(clip_id)
    return clips


def _draw_groups(groups: Mapping[str, str], rule: TestRule) -> set[str]:
    without = sorted(clip_id for clip_id, group in groups.items() if not group)
    if without:
        raise DataError(
            f"data.test.rule is group, but {len(without)} of {len(groups)} clips have no group (such as "
            f"{without[0]!r}): set data.group_regex, fill the table's `group` column, or use data.test.rule: random"
        )
    names = sorted(set(groups.values()))
    unknown = sorted(set(rule.groups or ()) - set(names))
    if unknown:
        raise DataError(f"data.test.groups names {unknown}, which no clip has; the groups are {', '.join(names[:20])}")
    test = set(rule.groups or names[:: rule.every])
    if test == set(names):
        raise DataError(
            f"data.test puts all {len(names)} groups ({', '.join(names[:5])}) into the test set and leaves none for "
            "training: name fewer data.test.groups, or use data.test.rule: random"
        )
    return {clip_id for clip_id, group in groups.items() if group in test}
