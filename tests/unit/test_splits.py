from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aplt.common.data.splits import (
    LabeledRule,
    Pool,
    Split,
    SplitRules,
    TestRule,
    draw,
    require_labeled_classes,
    shuffled,
)
from aplt.common.errors import DataError

SPEAKERS = ["F01", "F02", "F04", "F05", "F06", "F07", "F08", "F09", "F10", "F11", "M01", "M02", "M04", "M07", "M08"]


def pool_of(
    labels: Mapping[str, str | None],
    *,
    groups: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
) -> Pool:
    names = sorted({label for label in labels.values() if label is not None})
    blank = [""] * len(labels)
    return Pool(
        clip_ids=list(labels),
        class_names=names,
        labels_N=np.array([-1 if label is None else names.index(label) for label in labels.values()], dtype=np.int16),
        groups=groups or blank,
        parts=parts or blank,
        lengths_N=np.array(lengths or [-1] * len(labels), dtype=np.int32),
    )


def drawn(
    pool: Pool, *, seed: int = 0, unlabeled: str = "rest", labeled: Any = (), validation: float = 0, **test: Any
) -> Split:
    rules = {"test": test or {"rule": "random"}, "labeled": dict(labeled), "unlabeled": unlabeled, "seed": seed}
    return draw(pool, SplitRules.model_validate(rules | {"validation": validation}))


def ids(pool: Pool, rows: Any) -> list[str]:
    return [pool.clip_ids[row] for row in rows]


CLIPS: dict[str, str | None] = {f"{k}/{s}_{r}": str(k) for k in range(10) for s in SPEAKERS for r in range(10)}
LIPS = pool_of(CLIPS, groups=[clip_id[2:5] for clip_id in CLIPS])


def class_sizes(sizes: Sequence[int]) -> Pool:
    return pool_of({f"{k:02d}/{i:04d}": f"{k:02d}" for k, size in enumerate(sizes) for i in range(size)}, parts=None)


def all_for_training(pool: Pool, **rule: Any) -> Split:
    """The split where one extra clip is for testing, so that all the others are for training."""
    extra = pool_of(
        {**dict(zip(pool.clip_ids, (pool.class_names[k] for k in pool.labels_N), strict=True)), "z": "00"},
        parts=["train"] * len(pool.clip_ids) + ["test"],
    )
    return drawn(extra, labeled=rule, rule="official")


def test_every_third_speaker_in_sorted_order() -> None:
    split = drawn(LIPS, rule="group", every=3)
    assert {LIPS.groups[row] for row in split.test_rows} == {"F01", "F05", "F08", "F11", "M04"}
    assert len(split.test_rows) == 500


def test_named_groups_are_the_test_set() -> None:
    split = drawn(LIPS, rule="group", groups=["F02", "M08"])
    assert {LIPS.groups[row] for row in split.test_rows} == {"F02", "M08"}
    assert len(split.test_rows) == 200


def test_every_third_clip_of_each_class_in_a_shuffled_order() -> None:
    split = drawn(LIPS, rule="random")
    assert np.bincount(LIPS.labels_N[split.test_rows]).tolist() == [50] * 10
    assert {LIPS.groups[row] for row in split.test_rows} == set(SPEAKERS)
    assert drawn(LIPS, rule="random").test_rows.tolist() == split.test_rows.tolist()
    assert drawn(LIPS, rule="random", seed=1).test_rows.tolist() != split.test_rows.tolist()


def test_the_random_rule_never_tests_on_unknown_labels() -> None:
    pool = pool_of({"a": "x", "b": None, "c": None, "d": "x"})
    assert set(ids(pool, drawn(pool, rule="random", every=2).test_rows)) < {"a", "d"}


def test_the_three_parts_are_all_clips_and_share_none() -> None:
    split = drawn(LIPS, rule="random")
    together = np.concatenate([split.labeled_rows, split.unlabeled_rows, split.test_rows])
    assert sorted(together.tolist()) == list(range(1500))


def test_official_parts_are_taken_as_they_are() -> None:
    labels: dict[str, str | None] = dict.fromkeys("abcd", "x")
    pool = pool_of(labels, parts=["test", "train", "", "val"])
    split = drawn(pool, rule="official", labeled={"rule": "all"})
    assert (ids(pool, split.test_rows), ids(pool, split.labeled_rows)) == (["a"], ["b", "c"])
    more = drawn(pool, rule="official", train="train+val", labeled={"rule": "all"})
    assert (ids(pool, more.test_rows), ids(pool, more.labeled_rows)) == (["a"], ["b", "c", "d"])
    assert drawn(pool, rule="auto").test_rows.tolist() == split.test_rows.tolist()
    with pytest.raises(DataError, match="no clip with a known class is in a test or val part"):
        drawn(pool_of(labels), rule="official")


def test_without_labels_of_the_test_part_the_val_part_is_tested_on() -> None:
    pool = pool_of({"a": None, "b": "x", "c": "x"}, parts=["test", "train", "val"])
    split = drawn(pool, rule="official")
    assert (ids(pool, split.test_rows), ids(pool, split.labeled_rows)) == (["c"], ["b"])
    assert len(split.unlabeled_rows) == 0
    with pytest.raises(DataError, match="val is tested on: use train"):
        drawn(pool, rule="official", train="train+val")


def test_the_balanced_protocol_tests_equally_many_of_every_class() -> None:
    pool = class_sizes([90, 60, 70])
    split = drawn(pool, rule="balanced", per_class=50, labeled={"rule": "all"})
    assert np.bincount(pool.labels_N[split.test_rows]).tolist() == [50, 50, 50]
    assert np.bincount(pool.labels_N[split.labeled_rows]).tolist() == [40, 10, 20]
    capped = drawn(pool, rule="balanced", per_class=50, cap=15, labeled={"rule": "all"})
    assert capped.test_rows.tolist() == split.test_rows.tolist()
    assert np.bincount(pool.labels_N[capped.labeled_rows]).tolist() == [15, 10, 15]
    with pytest.raises(DataError, match="per_class is 60, but class 01 has 60 clips"):
        drawn(pool, rule="balanced", per_class=60)


def test_groups_that_cannot_be_used_are_data_errors() -> None:
    labels: dict[str, str | None] = dict.fromkeys("abc", "x")
    with pytest.raises(DataError, match=r"1 of 3 clips have no group \(such as 'c'\)"):
        drawn(pool_of(labels, groups=["s1", "s2", ""]), rule="group")
    with pytest.raises(DataError, match=r"names \['s9'\], which no clip has; the groups are s1, s2"):
        drawn(pool_of(labels, groups=["s1", "s2", "s1"]), rule="group", groups=["s1", "s9"])
    with pytest.raises(DataError, match="leaves none for training"):
        drawn(pool_of(labels, groups=["s1", "s1", "s1"]), rule="group")


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.1, [128, 119, 96, 50, 46, 42, 40, 40, 37, 36, 36, 34]),
        (0.25, [321, 298, 241, 124, 114, 105, 100, 99, 93, 89, 89, 84]),
        (0.4, [513, 477, 385]),
        (0.5, [642, 597, 481]),
    ],
)
def test_labelled_counts_round_half_up_per_class(ratio: float, expected: list[int]) -> None:
    # Training clips per class of the MA-12 subset of MA-52.
    sizes = [1283, 1193, 962, 497, 456, 421, 398, 397, 373, 356, 355, 337][: len(expected)]
    split = all_for_training(class_sizes(sizes), ratio=ratio)
    found = np.bincount(class_sizes(sizes).labels_N[split.labeled_rows]).tolist()
    assert found == expected


def test_every_class_gets_a_label_and_unknown_labels_stay_out() -> None:
    pool = pool_of({"a": "x", "b": "x", "c": "y", "d": None, "e": "x"}, parts=["", "", "", "", "test"])
    split = drawn(pool, rule="official", labeled={"ratio": 0.01})
    assert len(split.labeled_rows) == 2
    assert "c" in ids(pool, split.labeled_rows)
    everything = drawn(pool, rule="official", labeled={"rule": "all"})
    assert ids(pool, everything.labeled_rows) == ["a", "b", "c"]
    assert ids(pool, everything.unlabeled_rows) == ["d"]


def test_labelled_clips_may_be_among_the_unlabelled() -> None:
    split = drawn(LIPS, rule="random", unlabeled="all")
    assert (len(split.labeled_rows), len(split.unlabeled_rows)) == (100, 1000)
    assert set(split.labeled_rows) < set(split.unlabeled_rows)


def test_an_overall_share_is_not_kept_in_every_class() -> None:
    pool = class_sizes([500, 300, 200])
    split = all_for_training(pool, rule="overall", ratio=0.4)
    counts = np.bincount(pool.labels_N[split.labeled_rows])
    assert counts.sum() == 400
    assert counts.tolist() != [200, 120, 80]


def test_usb_gives_every_class_the_same_number() -> None:
    pool = class_sizes([50, 8, 20])
    split = all_for_training(pool, rule="usb-balanced", total=24)
    assert np.bincount(pool.labels_N[split.labeled_rows]).tolist() == [8, 8, 8]
    with pytest.raises(DataError, match="25 cannot be shared out evenly among 3 classes"):
        all_for_training(pool, rule="usb_balanced", total=25)
    with pytest.raises(DataError, match="asks for 9 labels in every class, but 01 has 8"):
        all_for_training(pool, rule="usb_balanced", total=27)


def test_tcl_rounds_labels_up_and_leaves_the_shortest_clips_out() -> None:
    sizes = [11, 10, 19]
    pool = class_sizes(sizes)
    split = all_for_training(pool, rule="tcl-classwise", ratio=0.1)
    assert np.bincount(pool.labels_N[split.labeled_rows]).tolist() == [2, 1, 2]
    short = pool_of({"a": "x", "b": "x", "c": "x", "d": "x"}, parts=["", "", "", "test"], lengths=[2, 3, -1, 9])
    left = drawn(short, rule="official", labeled={"rule": "tcl_classwise", "ratio": 0.5})
    assert sorted(ids(short, [*left.labeled_rows, *left.unlabeled_rows])) == ["b", "c"]


@given(st.integers(0, 1000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_smaller_ratio_is_inside_a_larger_one(seed: int, one: float, other: float) -> None:
    pool = pool_of({f"{k}/{i}": str(k) for k in range(3) for i in range(7 + k)})
    small, large = (drawn(pool, seed=seed, labeled={"ratio": ratio}) for ratio in sorted((one, other)))
    assert set(small.labeled_rows) <= set(large.labeled_rows)


def test_new_clips_do_not_reshuffle_old_ones_and_the_order_never_changes() -> None:
    names = ["a", "b", "c", "d", "e", "f", "g"]
    old = [names[row] for row in shuffled(names, np.arange(6), seed=0, purpose="labeled/x")]
    new = [names[row] for row in shuffled(names, np.arange(7), seed=0, purpose="labeled/x")]
    assert [clip_id for clip_id in new if clip_id != "g"] == old
    assert old == ["d", "b", "c", "a", "f", "e"]  # a changed order would change every split that anybody has made


@pytest.mark.parametrize("unlabeled", ["rest", "all"])
def test_a_validation_part_is_of_labelled_clips_which_train_nothing_and_no_test_clip_is_left(unlabeled: str) -> None:
    plain = drawn(LIPS, unlabeled=unlabeled)
    held = drawn(LIPS, unlabeled=unlabeled, validation=0.3)
    assert set(held.test_rows) <= set(plain.labeled_rows)
    assert set(held.labeled_rows) == set(plain.labeled_rows) - set(held.test_rows)
    assert set(held.unlabeled_rows) == set(plain.unlabeled_rows) - set(held.test_rows)
    assert np.bincount(LIPS.labels_N[held.test_rows]).tolist() == [3] * 10  # of 10 labelled ones in each class
    assert set(drawn(LIPS, unlabeled=unlabeled, validation=0.3, seed=1).test_rows) != set(held.test_rows)


def test_a_validation_part_leaves_every_class_a_label() -> None:
    held = drawn(class_sizes([3, 30]), labeled={"ratio": 0.1}, validation=0.9)
    assert (len(held.labeled_rows), len(held.test_rows)) == (2, 1)  # of 1 and 2 labelled clips


def test_classes_without_a_labelled_clip_are_a_data_error() -> None:
    pool = pool_of({"a": "x", "b": "y"})
    require_labeled_classes(pool, np.array([0, 1]), where="in the split")
    with pytest.raises(DataError, match=r"1 of 2 classes have no labelled training clip in the split \(y\)"):
        require_labeled_classes(pool, np.array([0]), where="in the split")


def test_a_split_is_called_by_what_it_is() -> None:
    names = [
        SplitRules(labeled=LabeledRule(ratio=0.25), seed=3).name,
        SplitRules(labeled=LabeledRule(rule="all")).name,
        SplitRules(labeled=LabeledRule(rule="usb_balanced", total=40)).name,
    ]
    assert [name.rpartition("-")[0] for name in names] == ["per_class-0.25-seed3", "all-seed0", "usb_balanced-40-seed0"]
    assert SplitRules(test=TestRule(every=4)).name != SplitRules().name
    assert SplitRules(validation=0.2).name != SplitRules().name
    assert names[0] == "per_class-0.25-seed3-0d8ea2"  # splits that were made keep their names


@pytest.mark.parametrize(
    "values",
    [{"rule": "random", "groups": ("a",)}, {"rule": "group", "groups": ()}, {"every": 1}, {"rule": "all"}, {"evry": 3}],
)
def test_rules_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TestRule.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"ratio": 0},
        {"ratio": 1.01},
        {"ratio": 10},
        {"rule": "random"},
        {"rato": 0.1},
        {"rule": "usb_balanced"},
        {"total": 40},
    ],
)
def test_labelled_rules_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LabeledRule.model_validate(values)
