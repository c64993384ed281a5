from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aplt.common.data.splits import (
    LabeledRule,
    TestRule,
    draw_labeled,
    draw_test,
    require_labeled_classes,
    shuffled,
)
from aplt.common.errors import DataError

SPEAKERS = ["F01", "F02", "F04", "F05", "F06", "F07", "F08", "F09", "F10", "F11", "M01", "M02", "M04", "M07", "M08"]
GROUPS = {f"{k}/{s}_{r}": s for k in range(10) for s in SPEAKERS for r in range(10)}
LABELS: dict[str, str | None] = {clip_id: clip_id.split("/")[0] for clip_id in GROUPS}
NONE_GIVEN = dict.fromkeys(GROUPS, "")


def test_every_third_speaker_in_sorted_order() -> None:
    test = draw_test(LABELS, groups=GROUPS, given=NONE_GIVEN, rule=TestRule(rule="group", every=3), seed=0)
    assert {GROUPS[clip_id] for clip_id in test} == {"F01", "F05", "F08", "F11", "M04"}
    assert len(test) == 500


def test_named_groups_are_the_test_set() -> None:
    rule = TestRule(rule="group", groups=("F02", "M08"))
    test = draw_test(LABELS, groups=GROUPS, given=NONE_GIVEN, rule=rule, seed=0)
    assert test == {clip_id for clip_id, group in GROUPS.items() if group in ("F02", "M08")}


def test_every_third_clip_of_each_class_in_a_shuffled_order() -> None:
    def draw(seed: int) -> set[str]:
        return draw_test(LABELS, groups=GROUPS, given=NONE_GIVEN, rule=TestRule(rule="random"), seed=seed)

    test = draw(0)
    assert [sum(LABELS[clip_id] == str(k) for clip_id in test) for k in range(10)] == [50] * 10
    assert {GROUPS[clip_id] for clip_id in test} == set(SPEAKERS)
    assert draw(0) == test
    assert draw(1) != test


def test_the_random_rule_never_tests_on_unknown_labels() -> None:
    labels: dict[str, str | None] = {"a": "x", "b": None, "c": None, "d": "x"}
    blank = dict.fromkeys(labels, "")
    assert draw_test(labels, groups=blank, given=blank, rule=TestRule(every=2), seed=0) < {"a", "d"}


def test_the_given_split_is_taken_as_it_is() -> None:
    given_split = {"a": "test", "b": "train", "c": ""}
    labels: dict[str, str | None] = dict.fromkeys(given_split, "x")
    blank = dict.fromkeys(given_split, "")
    assert draw_test(labels, groups=blank, given=given_split, rule=TestRule(rule="given"), seed=0) == {"a"}
    with pytest.raises(DataError, match="no clip has a split"):
        draw_test(labels, groups=blank, given=blank, rule=TestRule(rule="given"), seed=0)


def test_groups_that_cannot_be_used_are_data_errors() -> None:
    groups = {"a": "s1", "b": "s2", "c": ""}
    labels: dict[str, str | None] = dict.fromkeys(groups, "x")
    blank = dict.fromkeys(groups, "")

    def draw(rule: TestRule, groups: dict[str, str]) -> None:
        draw_test(labels, groups=groups, given=blank, rule=rule, seed=0)

    with pytest.raises(DataError, match=r"1 of 3 clips have no group \(such as 'c'\)"):
        draw(TestRule(rule="group"), groups)
    with pytest.raises(DataError, match=r"names \['s9'\], which no clip has; the groups are s1, s2"):
        draw(TestRule(rule="group", groups=("s1", "s9")), groups | {"c": "s1"})
    with pytest.raises(DataError, match="leaves none for training"):
        draw(TestRule(rule="group"), dict.fromkeys(groups, "s1"))


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.1, [128, 119, 96, 50, 46, 42, 40, 40, 37, 36, 36, 34]), (0.25, [321, 298, 241])]
)
def test_labelled_counts_round_half_up_per_class(ratio: float, expected: list[int]) -> None:
    # Training clips per class of the MA-12 subset of MA-52.
    sizes = [1283, 1193, 962, 495, 456, 418, 398, 397, 373, 356, 355, 337][: len(expected)]
    labels: dict[str, str | None] = {f"{k}/{i}": str(k) for k, size in enumerate(sizes) for i in range(size)}
    drawn = draw_labeled(labels, rule=LabeledRule(ratio=ratio), seed=0)
    assert [sum(labels[clip_id] == str(k) for clip_id in drawn) for k in range(len(sizes))] == expected


def test_every_class_gets_a_label_and_unknown_labels_stay_out() -> None:
    labels: dict[str, str | None] = {"a": "x", "b": "x", "c": "y", "d": None}
    drawn = draw_labeled(labels, rule=LabeledRule(ratio=0.01), seed=0)
    assert len(drawn) == 2
    assert "c" in drawn
    assert draw_labeled(labels, rule=LabeledRule(rule="given"), seed=0) == ["a", "b", "c"]


@given(st.integers(0, 1000), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_smaller_ratio_is_inside_a_larger_one(seed: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    inner = draw_labeled(LABELS, rule=LabeledRule(ratio=small), seed=seed)
    assert set(inner) <= set(draw_labeled(LABELS, rule=LabeledRule(ratio=large), seed=seed))


def test_new_clips_do_not_reshuffle_old_ones_and_the_order_never_changes() -> None:
    old = shuffled(["a", "b", "c", "d", "e", "f"], seed=0, purpose="labeled/x")
    new = shuffled(["a", "b", "c", "d", "e", "f", "g"], seed=0, purpose="labeled/x")
    assert [clip_id for clip_id in new if clip_id != "g"] == old
    assert old == ["d", "b", "c", "a", "f", "e"]  # a changed order would change every split that anybody has made


def test_classes_without_a_labelled_clip_are_a_data_error() -> None:
    require_labeled_classes(["x", "y"], {"a": "x", "b": "y"}, where="in the split")
    with pytest.raises(DataError, match=r"1 of 2 classes have no labelled training clip in the split \(y\)"):
        require_labeled_classes(["x", "y"], {"a": "x"}, where="in the split")


@pytest.mark.parametrize(
    "values",
    [{"rule": "random", "groups": ("a",)}, {"rule": "group", "groups": ()}, {"every": 1}, {"rule": "all"}, {"evry": 3}],
)
def test_rules_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TestRule.model_validate(values)


@pytest.mark.parametrize("values", [{"ratio": 0}, {"ratio": 1.01}, {"ratio": 10}, {"rule": "random"}, {"rato": 0.1}])
def test_labelled_rules_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LabeledRule.model_validate(values)
