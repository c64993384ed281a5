"""Which clips are for testing, and which training clips show their label.

Drawing depends on the seed, the class and the clip ids alone, so that no clip order, machine or library version changes
a split.

Letters: N clips, in the order of the manifest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aplt.common.errors import DataError

UNKNOWN = -1
MIN_FRAMES_TCL = 3


class TestRule(BaseModel):
    """How test clips are chosen, and which of the others are for training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    __test__: ClassVar[bool] = False  # pytest collects classes by this name

    rule: Literal["auto", "official", "balanced", "group", "random"] = "auto"
    """official: the parts that the data set (or the table's split column) was delivered in; balanced: equally many
    clips of every class; group: whole groups (subjects); random: clips of every class; auto: official if there are such
    parts, else random."""
    every: Annotated[int, Field(ge=2)] = 3
    """Every n-th group in sorted order, or every n-th clip of each class in a shuffled order, from the first on."""
    groups: tuple[str, ...] | None = None
    """With rule group: exactly these groups, and `every` is not used."""
    train: Literal["train", "train+val"] = "train"
    """With rule official: the parts that are trained with."""
    per_class: Annotated[int, Field(ge=1)] = 50
    """With rule balanced: test clips of each class."""
    cap: Annotated[int, Field(ge=1)] | None = None
    """With rule balanced: at most so many training clips of each class."""

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

    rule: Literal["per_class", "overall", "usb_balanced", "tcl_classwise", "all"] = "per_class"
    """per_class: the same share of every class; overall: a share of all clips together (as SVFormer); usb_balanced: the
    same number in every class (as USB); tcl_classwise: per class, rounded up, clips under 3 frames left out (as TCL);
    all: every training clip with a known label."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share. With rule per_class max(1, floor(ratio * n + 0.5)) of n clips, among them those of any lower ratio."""
    total: Annotated[int, Field(ge=1)] | None = None
    """With rule usb_balanced: the number of labels in all; the number of classes must divide it."""

    @field_validator("rule", mode="before")
    @classmethod
    def _as_published(cls, rule: object) -> object:
        return rule.replace("-", "_") if isinstance(rule, str) else rule

    @model_validator(mode="after")
    def _fits(self) -> LabeledRule:
        if (self.total is not None) != (self.rule == "usb_balanced"):
            raise ValueError("rule usb_balanced needs `total`, and no other rule takes it")
        return self


class SplitRules(BaseModel):
    """All that decides a split of given clips."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    test: TestRule = TestRule()
    labeled: LabeledRule = LabeledRule()
    unlabeled: Literal["rest", "all"] = "rest"
    """rest: the training clips that do not show their label; all: those that do as well."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Test on this share of the labelled training clips of each class instead, which then train nothing; the test clips
    are left out of everything. For choosing settings."""
    seed: int = 0

    @property
    def name(self) -> str:
        """What the split is called: readable, and another one for other rules."""
        rule = self.labeled
        amount = {"all": "", "usb_balanced": f"-{rule.total}"}.get(rule.rule, f"-{rule.ratio:g}")
        # Splits without a validation part are called what they were before there was one.
        unused = set() if self.validation else {"validation"}
        own = hashlib.sha256(self.model_dump_json(exclude=unused).encode()).hexdigest()[:6]
        return f"{rule.rule}{amount}-seed{self.seed}-{own}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The clips that a split is drawn from."""

    clip_ids: Sequence[str]
    class_names: Sequence[str]
    labels_N: NDArray[np.int16]
    """Place in `class_names`; -1 where the class is not known."""
    groups: Sequence[str]
    """"" where not known."""
    parts: Sequence[str]
    """train, val, test or "", as delivered."""
    lengths_N: NDArray[np.int32]
    """Frames; -1 where not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Rows of the pool, ascending."""

    labeled_rows: NDArray[np.int32]
    unlabeled_rows: NDArray[np.int32]
    test_rows: NDArray[np.int32]


def draw(pool: Pool, rules: SplitRules) -> Split:
    """Return the split that the rules give.

    Raises:
        DataError: the rules need groups, parts or more clips than there are.
    """
    test_N, train_N = _TEST_RULES[_chosen(pool, rules.test)](pool, rules)
    if rules.labeled.rule == "tcl_classwise":
        train_N = train_N & ~((pool.lengths_N >= 0) & (pool.lengths_N < MIN_FRAMES_TCL))
    labeled = np.sort(_draw_labeled(pool, np.flatnonzero(train_N & (pool.labels_N != UNKNOWN)), rules))
    unlabeled_N = train_N.copy()
    if rules.unlabeled == "rest":
        unlabeled_N[labeled] = False
    if rules.validation:
        held_out = _hold_out(pool, labeled, rules)
        labeled = np.setdiff1d(labeled, held_out)
        unlabeled_N[held_out] = False
        test_N = np.zeros_like(test_N)
        test_N[held_out] = True
    return Split(
        labeled_rows=labeled.astype(np.int32),
        unlabeled_rows=np.flatnonzero(unlabeled_N).astype(np.int32),
        test_rows=np.flatnonzero(test_N).astype(np.int32),
    )


def require_labeled_classes(pool: Pool, labeled_rows: NDArray[Any], *, where: str) -> None:
    """Raise DataError unless every class has a labelled training clip; without one it cannot be learnt at all."""
    counts = np.bincount(pool.labels_N[labeled_rows], minlength=len(pool.class_names))
    missing = [name for name, count in zip(pool.class_names, counts, strict=True) if not count]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(counts)} classes have no labelled training clip {where} "
            f"({', '.join(missing[:5])}): add clips or labels of them, leave the classes out, or change data.test or "
            "data.labeled"
        )


def shuffled(clip_ids: Sequence[str], rows: NDArray[Any], *, seed: int, purpose: str) -> NDArray[Any]:
    """Return rows in an order that depends on nothing but the seed, the purpose and the id of each."""
    start = hashlib.sha256(f"{seed}\0{purpose}\0".encode("utf-8", "surrogateescape"))

    def key(row: int) -> bytes:
        own = start.copy()
        own.update(clip_ids[row].encode("utf-8", "surrogateescape"))
        return own.digest()

    return np.array(sorted(rows.tolist(), key=key), dtype=np.int64)


def _chosen(pool: Pool, rule: TestRule) -> str:
    if rule.rule != "auto":
        return rule.rule
    return "official" if set(pool.parts) & {"test", "val"} else "random"


def _official(pool: Pool, rules: SplitRules) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    parts_N, known_N = np.array(pool.parts, dtype="<U5"), pool.labels_N != UNKNOWN
    tested = next((part for part in ("test", "val") if np.any((parts_N == part) & known_N)), None)
    if tested is None:
        raise DataError(
            "data.test.rule is official, but no clip with a known class is in a test or val part: use a data set or a "
            "table whose `split` column says test, or another rule (balanced, group, random)"
        )
    trained = rules.test.train.split("+")
    if tested in trained:
        raise DataError(
            "data.test.train is train+val, but there is no test part with known classes, so val is tested on: use train"
        )
    return parts_N == tested, np.isin(parts_N, ["", *trained])


def _balanced(pool: Pool, rules: SplitRules) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    rule, test_N = rules.test, np.zeros(len(pool.labels_N), dtype=bool)
    train_N = pool.labels_N == UNKNOWN
    for name, rows in _by_class(pool, np.arange(len(test_N))):
        if len(rows) <= rule.per_class:
            raise DataError(
                f"data.test.per_class is {rule.per_class}, but class {name} has {len(rows)} clips in all: lower it, so "
                "that some are left for training"
            )
        order = shuffled(pool.clip_ids, rows, seed=rules.seed, purpose=f"test/{name}")
        test_N[order[: rule.per_class]] = True
        train_N[order[rule.per_class :][: rule.cap]] = True
    return test_N, train_N


def _random(pool: Pool, rules: SplitRules) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    test_N = np.zeros(len(pool.labels_N), dtype=bool)
    for name, rows in _by_class(pool, np.arange(len(test_N))):
        order = shuffled(pool.clip_ids, rows, seed=rules.seed, purpose=f"test/{name}")
        test_N[order[:: rules.test.every]] = True
    return test_N, ~test_N


def _grouped(pool: Pool, rules: SplitRules) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    rule = rules.test
    without = [clip_id for clip_id, group in zip(pool.clip_ids, pool.groups, strict=True) if not group]
    if without:
        raise DataError(
            f"data.test.rule is group, but {len(without)} of {len(pool.groups)} clips have no group (such as "
            f"{without[0]!r}): set data.group_regex, fill the table's `group` column, or use data.test.rule: random"
        )
    names = sorted(set(pool.groups))
    unknown = sorted(set(rule.groups or ()) - set(names))
    if unknown:
        raise DataError(f"data.test.groups names {unknown}, which no clip has; the groups are {', '.join(names[:20])}")
    tested = set(rule.groups or names[:: rule.every])
    if tested == set(names):
        raise DataError(
            f"data.test puts all {len(names)} groups ({', '.join(names[:5])}) into the test set and leaves none for "
            "training: name fewer data.test.groups, or use data.test.rule: random"
        )
    test_N = np.array([group in tested for group in pool.groups], dtype=bool)
    return test_N, ~test_N


_TEST_RULES: dict[str, Callable[[Pool, SplitRules], tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = {
    "official": _official,
    "balanced": _balanced,
    "random": _random,
    "group": _grouped,
}


def _draw_labeled(pool: Pool, rows: NDArray[np.int64], rules: SplitRules) -> NDArray[np.int64]:
    """Return those of the training rows with a known class that show it."""
    rule = rules.labeled
    if rule.rule == "all":
        return rows
    if rule.rule == "overall":
        order = shuffled(pool.clip_ids, rows, seed=rules.seed, purpose="labeled")
        return order[: max(1, math.floor(rule.ratio * len(rows) + 0.5))]
    drawn = [np.zeros(0, dtype=np.int64)]
    for name, of_class in _by_class(pool, rows):
        order = shuffled(pool.clip_ids, of_class, seed=rules.seed, purpose=f"labeled/{name}")
        drawn.append(order[: _count(rule, name, len(of_class), len(pool.class_names))])
    return np.concatenate(drawn)


def _hold_out(pool: Pool, rows: NDArray[np.int64], rules: SplitRules) -> NDArray[np.int64]:
    """Return those of the labelled clips that are tested on: of every class that has two one at least, never all."""
    held_out = [np.zeros(0, dtype=np.int64)]
    for name, of_class in _by_class(pool, rows):
        order = shuffled(pool.clip_ids, of_class, seed=rules.seed, purpose=f"validation/{name}")
        wanted = max(1, math.floor(rules.validation * len(of_class) + 0.5))
        held_out.append(order[: min(wanted, len(of_class) - 1)])
    return np.concatenate(held_out)


def _count(rule: LabeledRule, name: str, num_clips: int, num_classes: int) -> int:
    if rule.rule == "per_class":
        return max(1, math.floor(rule.ratio * num_clips + 0.5))
    if rule.rule == "tcl_classwise":
        return num_clips - math.floor(num_clips * (1 - rule.ratio) + 1e-9)  # 10 * (1 - 0.9) is below 1
    count, rest = divmod(rule.total or 0, num_classes)
    if rest or not count:
        raise DataError(f"data.labeled.total {rule.total} cannot be shared out evenly among {num_classes} classes")
    if count > num_clips:
        raise DataError(
            f"data.labeled.total {rule.total} asks for {count} labels in every class, but {name} has {num_clips} "
            "training clips"
        )
    return count


def _by_class(pool: Pool, rows: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
    labels = pool.labels_N[rows]
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(len(pool.class_names) + 1))
    parts = [rows[order[first:last]] for first, last in pairwise(bounds)]
    return [(name, part) for name, part in zip(pool.class_names, parts, strict=True) if len(part)]
